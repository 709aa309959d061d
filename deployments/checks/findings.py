"""A finding of `sluice doctor`: one line, and a remedy if something is wrong."""

from dataclasses import dataclass
from typing import Literal

from tasks.errors import SluiceError

__all__ = ["Finding", "failure", "fine", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    level   ok; warn: it works, but not as well or as safely as it could; fail: something does not work
    do      the remedy; '' if nothing is wrong
    """

    check: str
    level: Literal["ok", "warn", "fail"]
    says: str
    do: str = ""


def fine(check: str, says: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(check, "ok", says)


def warning(check: str, says: str, do: str) -> Finding:
    """Return a finding of something that works, but should be changed."""
    return Finding(check, "warn", says, do)


def failure(check: str, says: str | SluiceError, do: str = "") -> Finding:
    """Return a finding of something that does not work; an error's sentence contains its remedy."""
    return Finding(check, "fail", str(says), do)
