"""How much is kept, as an inlet declares it: of a topic, and in memory while Redis is away. Pure: no Redis."""

import re
from dataclasses import dataclass
from typing import Literal, Self, get_args

from tasks.base import quantities
from tasks.checks import check_choice, seconds
from tasks.errors import SettingsError

__all__ = ["DEFAULT_BUFFER", "DEFAULT_KEEP", "Buffer", "Keep", "WhenFull"]

WhenFull = Literal["spill", "wait"]

# An hour of frames of 1.3 MB at one a second is 4.7 GB: without a limit in bytes no number of entries is safe.
DEFAULT_KEEP = "10000, 500MB"
DEFAULT_BUFFER = "10000, 64MiB"

_SIZES = {"GB": 10**9, "MB": 10**6, "KB": 10**3, "B": 1}
_KEEP_FORM = "a number of entries, an age or a size above zero, or several, such as 4000 or '4000, 1h, 500MB'"
_BUFFER_FORM = "a number of entries or a size above zero, or both, such as 1000 or '1000, 10MB'"
_AGES = {"h": 3_600_000, "min": 60_000}
# '1,5h' might be 1.5 h, or an entry and 5 h.
_AMBIGUOUS = re.compile(r"[0-9],[0-9]")
# Lua counts to it.
_LARGEST = 2**53


@dataclass(frozen=True, slots=True)
class Keep:
    """How much of a topic is kept: what is beyond any of its limits goes. 0 where there is no limit.

    when_full   what happens when entries that a live group has not read are beyond them: 'spill', the oldest are
                dropped and counted; 'wait', appends are refused until it has read on
    """

    entries: int = 0
    age_ms: int = 0
    max_bytes: int = 0
    when_full: WhenFull = "spill"

    @classmethod
    def of(cls, keep: "int | str | Keep", when_full: WhenFull = "spill", *, prefix: str = "") -> Self:
        """Return what a number of entries, or text such as '4000, 1h, 500MB', says.

        prefix    of the names of the two options in errors
        raises    SettingsError: it says nothing, something else, or one thing twice
        """
        if isinstance(keep, cls):
            return keep
        check_choice(when_full, get_args(WhenFull), name=f"{prefix}when_full")
        return cls(**_limits(keep, f"{prefix}keep", _KEEP_FORM, cls), when_full=when_full)

    def __str__(self) -> str:
        """Return the limits as they are declared, in one way for all ways to write them."""
        limits = [
            str(self.entries) if self.entries else "",
            _whole(self.age_ms, _AGES) or f"{self.age_ms / 1000:.10g}s" if self.age_ms else "",
            _whole(self.max_bytes, _SIZES),
        ]
        return ", ".join(filter(None, limits)) + (" (wait)" if self.when_full == "wait" else "")

    def packed(self) -> str:
        """Return what the scripts in Redis read."""
        return f"{self.entries} {self.age_ms} {self.max_bytes} {int(self.when_full == 'wait')}"

    @classmethod
    def unpacked(cls, text: str) -> Self:
        """Return what `packed` packed."""
        entries, age_ms, max_bytes, waits = map(int, text.split())
        return cls(entries, age_ms, max_bytes, "wait" if waits else "spill")


def _whole(number: int, units: dict[str, int]) -> str:
    """Return a number in the first unit of which it is a whole one; '' if it is 0, or none of any."""
    return next((f"{number // size}{unit}" for unit, size in units.items() if number and not number % size), "")


@dataclass(frozen=True, slots=True)
class Buffer:
    """How much may wait in memory for a Redis that is away."""

    entries: int = 10_000
    max_bytes: int = 64 << 20

    @classmethod
    def of(cls, limits: "int | str | Buffer") -> Self:
        """Return what a number of entries, or text such as '1000, 10MB', says; what it does not say is as by default.

        raises    SettingsError: it says nothing, something else, or one thing twice
        """
        if isinstance(limits, cls):
            return limits
        return cls(**_limits(limits, "max_waiting", _BUFFER_FORM, cls))


def _limits(text: object, of: str, form: str, kind: type[Keep | Buffer]) -> dict[str, int]:
    """Return the limits that some text names, as fields of `kind`."""
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
    """Return which limit some text is and how much, 0 if it is none; and why it is none, where that is known."""
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
