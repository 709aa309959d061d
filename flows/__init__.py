"""Decorators that make inlets and outlets, flows for the operator, and the shipped inlets and outlets."""

from flows.inlets import inlet
from flows.outlets import outlet

__all__ = ["inlet", "outlet"]
