"""Sluice under its own name: `from sluice import inlet, outlet, has`, and the test kit as `sluice.testing`.

Installed as the package `sluice` (`package-dir` in pyproject.toml). Its names are the objects of `flows` and `tasks`, not
copies. `inlet` and `outlet` import Prefect, so they are imported when they are first used: the others take no part of that.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tasks import (
    Cursor,
    Delivery,
    EncodeError,
    Entry,
    LeaseLostError,
    PipelineError,
    PoisonEntryError,
    PumpError,
    RejectedError,
    Reservoir,
    RetryLater,
    SettingsError,
    SluiceError,
    StateConflictError,
    TopicFullError,
    UnavailableError,
    UnreadableTopicError,
    has,
)

if TYPE_CHECKING:
    from deployments.sluice import testing
    from flows import inlet, outlet

__all__ = [
    "Cursor",
    "Delivery",
    "EncodeError",
    "Entry",
    "LeaseLostError",
    "PipelineError",
    "PoisonEntryError",
    "PumpError",
    "RejectedError",
    "Reservoir",
    "RetryLater",
    "SettingsError",
    "SluiceError",
    "StateConflictError",
    "TopicFullError",
    "UnavailableError",
    "UnreadableTopicError",
    "has",
    "inlet",
    "outlet",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name == "testing":
        return importlib.import_module(f"{__name__}.testing")
    if name in ("inlet", "outlet"):
        found = getattr(importlib.import_module("flows"), name)
        globals()[name] = found
        return found
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
