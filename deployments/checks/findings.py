"""What a check of `sluice doctor` finds: one line, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

from tasks.errors import SluiceError

__all__ = ["Finding", "failure", "fine", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    level   ok; warn: it works, but not as well or as safely as it could; fail: something does not work
    do      what to do about it; '' if nothing
    """

    check: str
    level: Literal["ok", "warn", "fail"]
    says: str
    do: str = ""


def fine(check: str, says: str) -> Finding:
    """Return a finding that asks for nothing."""
    return Finding(check, "ok", says)


def warning(check: str, says: str, do: str) -> Finding:
    """Return a finding of something that works, but should not stay so."""
    return Finding(check, "warn", says, do)


def failure(check: str, says: str | SluiceError, do: str = "") -> Finding:
    """Return a finding of something that does not work; of an error, whose sentence says what to do already."""
    return Finding(check, "fail", str(says), do)
