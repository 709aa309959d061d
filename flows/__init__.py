"""What Prefect runs: the decorators that make inlets and outlets, and the shipped ones in modules of their own."""

from flows.inlets import inlet
from flows.outlets import outlet

__all__ = ["inlet", "outlet"]
