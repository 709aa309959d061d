"""Finds the parameters of a pump that each call fills in, and no form shows."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.errors import SettingsError
from tasks.pump.cursor import Cursor

__all__ = ["CallParameters"]


@dataclass(frozen=True, slots=True)
class CallParameters:
    """The parameters of a pump that each call fills in.

    cursor   name of the one of type `Cursor`; '' for none
    start    the cursor's first value
    at       name of the one for the time of the tick: `at: datetime`, without a default; '' for none
    """

    cursor: str = ""
    start: Any = None
    at: str = ""

    @classmethod
    def of(cls, pump: Callable[..., Any]) -> "CallParameters":
        """Return the parameters of a pump. Raises SettingsError: it has two cursors, or a default that is none."""
        parameters = list(inspect.signature(pump).parameters.values())
        has_time = any(p.name == "at" and p.default is p.empty and _type(p, pump) is datetime for p in parameters)
        at = "at" if has_time else ""
        found = [p for p in parameters if _type(p, pump) is Cursor]
        if not found:
            return cls(at=at)
        where = f"inlet {pump.__name__!r}"
        if len(found) > 1:
            msg = f"{where}: expected one cursor, got {', '.join(p.name for p in found)}; let its value be a dict"
            raise SettingsError(msg)
        (parameter,) = found
        default = Cursor() if parameter.default is parameter.empty else parameter.default
        if not isinstance(default, Cursor):
            msg = f"{where}: expected the default of {parameter.name!r} to be a Cursor, got {default!r}; write Cursor({default!r})"
            raise SettingsError(msg)
        return cls(parameter.name, default.value, at)

    @property
    def names(self) -> frozenset[str]:
        """The names of these parameters."""
        return frozenset(filter(None, [self.cursor, self.at]))


def _type(parameter: inspect.Parameter, pump: Callable[..., Any]) -> Any:
    """Return the type of a parameter; None if its annotation is text that cannot be evaluated, which `flow_of` reports."""
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    try:
        return eval(parameter.annotation, inspect.unwrap(pump).__globals__)  # noqa: S307 - the module's own text
    except Exception:  # noqa: BLE001
        return None
