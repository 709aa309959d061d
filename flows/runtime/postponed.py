"""Postpones what the definition of a flow computes for deploys, because the run of a flow needs none of it."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from prefect import flows

__all__ = ["Postponed", "postpone_schemas"]


class Postponed:
    """Stands for the result of a call that is made when an attribute of the result is first read."""

    def __init__(self, make: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        self._make = partial(make, *arguments, **options)

    @cached_property
    def _result(self) -> Any:
        return self._make()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._result, name)


def postpone_schemas() -> None:
    """Let flows that this process defines from now on compute the schemas of their parameters when these are used.

    Prefect builds two pydantic models for each flow, and a model for each of its parameters (3.9.1). For fifty inlets in one
    file that took each of their runs 0.6 s of CPU and 2 MB.
    """
    flows.parameter_schema = partial(Postponed, flows.parameter_schema)  # type: ignore[assignment]
    flows.ValidatedFunction = partial(Postponed, flows.ValidatedFunction)  # type: ignore[assignment]
