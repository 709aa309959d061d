"""Limits that an inlet declares: how much its topic keeps, and how much waits in memory during a Redis outage.

Pure: this module does not import Redis.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

from tasks.base import quantities
from tasks.checks import check_choice, seconds
from tasks.errors import SettingsError

__all__ = ["DEFAULT_BACKLOG", "DEFAULT_KEEP", "BacklogLimits", "Keep", "WhenFull"]

WhenFull = Literal["spill", "wait"]

# One frame of 1.3 MB per second makes 4.7 GB per hour: no number of entries is safe without a limit in bytes.
DEFAULT_KEEP = "10000, 500MB"
DEFAULT_BACKLOG = "10000, 64MiB"

_SIZES = {"GB": 10**9, "MB": 10**6, "KB": 10**3, "B": 1}
_KEEP_FORM = "a number of entries, an age or a size above zero, or several, such as 4000 or '4000, 1h, 500MB'"
_BACKLOG_FORM = "a number of entries or a size above zero, or both, such as 1000 or '1000, 10MB'"
_AGES = {"h": 3_600_000, "min": 60_000}
# '1,5h' might mean 1.5 h, or one entry and 5 h.
_AMBIGUOUS = re.compile(r"[0-9],[0-9]")
# Lua's numbers are exact up to this one.
_LARGEST = 2**53


@dataclass(frozen=True, slots=True)
class Keep:
    """Limits of a topic: entries beyond any of them are removed; 0 is no limit.

    when_full   the fate of entries beyond a limit that a live group has not read: 'spill' drops and counts the oldest,
                'wait' refuses appends until the group has read them
    """

    entries: int = 0
    age_ms: int = 0
    max_bytes: int = 0
    when_full: WhenFull = "spill"

    @classmethod
    def of(cls, keep: "int | str | Keep", when_full: WhenFull = "spill", *, prefix: str = "") -> Self:
        """Parse a number of entries, or text such as '4000, 1h, 500MB'.

        prefix    of the names of the two options in errors
        raises    SettingsError: no limit, an invalid one, or one of a kind twice
        """
        if isinstance(keep, cls):
            return keep
        check_choice(when_full, get_args(WhenFull), name=f"{prefix}when_full")
        return cls(**_limits(keep, f"{prefix}keep", _KEEP_FORM, cls), when_full=when_full)

    def __str__(self) -> str:
        """Return the limits as text that `of` parses, normalized."""
        limits = [
            str(self.entries) if self.entries else "",
            _whole(self.age_ms, _AGES) or f"{self.age_ms / 1000:.10g}s" if self.age_ms else "",
            _whole(self.max_bytes, _SIZES),
        ]
        return ", ".join(filter(None, limits)) + (" (wait)" if self.when_full == "wait" else "")

    def shared(self, partitions: int) -> Self:
        """Return what each of several partitions keeps, so that they keep this much together."""
        entries, max_bytes = (-(-limit // partitions) for limit in (self.entries, self.max_bytes))
        return replace(self, entries=entries, max_bytes=max_bytes)

    def packed(self) -> str:
        """Return the form for the scripts in Redis: '<entries> <age in ms> <bytes> <1 to wait>'."""
        return f"{self.entries} {self.age_ms} {self.max_bytes} {int(self.when_full == 'wait')}"

    @classmethod
    def unpacked(cls, text: str) -> Self:
        """Parse the form that `packed` returns."""
        entries, age_ms, max_bytes, waits = map(int, text.split())
        return cls(entries, age_ms, max_bytes, "wait" if waits else "spill")


def _whole(number: int, units: dict[str, int]) -> str:
    """Return a number in the largest unit that divides it; '' for 0, or if no unit does."""
    return next((f"{number // size}{unit}" for unit, size in units.items() if number and not number % size), "")


@dataclass(frozen=True, slots=True)
class BacklogLimits:
    """Limits of the entries that wait in memory during a Redis outage."""

    entries: int = 10_000
    max_bytes: int = 64 << 20

    @classmethod
    def of(cls, limits: "int | str | BacklogLimits") -> Self:
        """Parse a number of entries, or text such as '1000, 10MB'; a missing limit keeps its default.

        raises    SettingsError: no limit, an invalid one, or one of a kind twice
        """
        if isinstance(limits, cls):
            return limits
        return cls(**_limits(limits, "max_waiting", _BACKLOG_FORM, cls))


def _limits(text: object, of: str, form: str, kind: type[Keep | BacklogLimits]) -> dict[str, int]:
    """Parse limits into fields of `kind`."""
    found: dict[str, int] = {}
    if _AMBIGUOUS.search(str(text)):
        msg = f"{of}: expected a space behind the comma between two limits ('4000, 1h') and a point before a fraction (1.5h), got {text!r}"
        raise SettingsError(msg)
    for part in str(text).split(","):
        name, value, why = _limit(part.strip())
        if not 1 <= value <= _LARGEST or name not in kind.__dataclass_fields__:
            msg = f"{of}: expected {form}, got {text!r}{why}"
            raise SettingsError(msg)
        if name in found:
            msg = f"{of}: expected each limit once at most, got {text!r}"
            raise SettingsError(msg)
        found[name] = value
    return found


def _limit(part: str) -> tuple[str, int, str]:
    """Return a limit's field and value, and ''; or '', 0, and the reason if one is known."""
    if part.isascii() and part.isdecimal():
        return "entries", int(part), ""
    if (number := quantities.size(part)) is not None:
        return "max_bytes", number, ""
    if not part[-1:].isalpha():  # a bare number would be seconds
        return "", 0, ""
    try:
        return "age_ms", round(seconds(part) * 1000), ""
    except SettingsError as error:
        return "", 0, f"; {error.__cause__}" if error.__cause__ else ""
