"""Checks of users' input: names, numbers, durations and positions in a topic."""

import re
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from numbers import Real

from tasks.base import quantities
from tasks.base.ids import MAX_NUMBER, id_named, id_time
from tasks.errors import SettingsError

__all__ = [
    "check_choice",
    "check_field",
    "check_group",
    "check_number",
    "durations",
    "group_end",
    "group_start",
    "is_group",
    "seconds",
]

_GROUP = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,126}[A-Za-z0-9_])?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_RULE = "1 to 128 letters, digits, '_', '.' or '-', no '.' or '-' at the ends"


def is_group(name: str) -> bool:
    """Return whether one of Sluice's consumer groups can have this name."""
    return bool(_GROUP.fullmatch(name))


def check_group(name: str) -> str:
    """Return a valid name of a consumer group, or refuse it.

    raises    SettingsError: the name breaks the rule
    """
    if isinstance(name, str) and _GROUP.fullmatch(name):
        return name
    msg = f"expected a group name of {_RULE}, got {name!r}; rename the group"
    raise SettingsError(msg)


def check_choice(value: object, choices: Iterable[object], *, name: str) -> None:
    """Refuse a value that is not among `choices`; `name` is the option's, for the message."""
    allowed = list(choices)
    if value not in allowed:
        msg = f"{name}: expected {' or '.join(map(repr, allowed))}, got {value!r}"
        raise SettingsError(msg)


def check_field(field: object, *, name: str) -> str:
    """Return `field` if it can be the name of an entry's field; `name` says whose it is."""
    if isinstance(field, str) and field and not _SURROGATE.search(field):
        return field
    msg = f"{name}: expected the name of a field, which is not empty and without lone surrogates, got {field!r}"
    raise SettingsError(msg)


def check_number(value: object, *, least: int, name: str) -> None:
    """Refuse a value that is not a whole number of at least `least`; `name` is the option's, for the message."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        msg = f"{name}: expected a whole number from {least} on, got {value!r}"
        raise SettingsError(msg)


# 100 years: every server and clock accepts it.
_LONGEST = 36_525 * 86_400


def seconds(duration: str | float | timedelta, *, name: str = "duration", least: float = 0.0) -> float:
    """Convert a duration to seconds, or refuse it.

    duration  a number of seconds, a timedelta, or text such as '500ms', '1h30min' or 'PT1H30M' (`tasks.base.quantities`)
    name      the option's, for the message
    raises    SettingsError: not a duration, not above zero, above 100 years, or less than `least` seconds
    """
    try:
        value = _in_seconds(duration)
    except (ValueError, TypeError, OverflowError) as error:
        why = f"; {error}" if isinstance(duration, str) else ""
        msg = f"{name}: expected a duration such as '500ms', '5s', '1h30min' or 'PT1H30M', got {duration!r}{why}"
        raise SettingsError(msg) from error
    if not 0 < value <= _LONGEST:
        msg = f"{name}: expected a duration above zero and of at most 100 years, got {duration!r}"
        raise SettingsError(msg)
    if value < least:
        msg = f"{name}: expected a duration of {least * 1000:g} ms or more, got {duration!r}"
        raise SettingsError(msg)
    return value


def durations(text: str | Sequence[str | float | timedelta], *, name: str) -> tuple[float, ...]:
    """Convert a list of durations to seconds, or refuse it.

    text      durations with commas between them, such as '1s, 5s, 30s'; or a list of durations
    name      the option's, for the message
    raises    SettingsError: no duration, or as `seconds` raises

    >>> durations("1s, 5s, 1min", name="retry")
    (1.0, 5.0, 60.0)
    """
    parts = [part.strip() for part in text.split(",")] if isinstance(text, str) else text
    if not isinstance(parts, list | tuple) or not parts or parts == [""]:
        msg = f"{name}: expected durations such as '1s, 5s, 30s', got {text!r}"
        raise SettingsError(msg)
    return tuple(seconds(part, name=name) for part in parts)


def _in_seconds(duration: object) -> float:
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, str):
        return float(quantities.duration(duration))
    # numpy registers timedelta64 as an integer type; its number, in units of its own, would count as seconds here.
    is_timedelta64 = getattr(getattr(duration, "dtype", None), "kind", "") == "m"
    if isinstance(duration, Real | Decimal) and not isinstance(duration, bool) and not is_timedelta64:
        return float(duration)
    raise TypeError


_SOON_MS = 300_000  # by which clocks may differ
# Ids beyond the year 9999 are those of programs that write no times into them.
_LAST_MS = 253_402_214_399_000


def group_start(start_from: str, *, may_be_ahead: bool = False) -> str:
    """Return the entry id after which a new group starts, so that it reads `start_from` and all later entries.

    start_from   'beginning', 'new', an ISO 8601 time (UTC without an offset) or an entry id
    may_be_ahead whether the caller itself refuses a time in the future, until which the group would skip everything
    raises       SettingsError: none of these, or a time in the future
    """
    if start_from == "beginning":
        return "0-0"
    if start_from == "new":
        return "$"
    expected = "'beginning', 'new', an ISO time or an entry id"
    ms, sequence = id_named(start_from, name="start_from", expected=expected, sequence=0)
    if not may_be_ahead and ms - time.time() * 1000 > _SOON_MS and ms < _LAST_MS:
        now = datetime.now(UTC)
        msg = (
            f"start_from: expected a time that has come, got {start_from!r}, which is {id_time(f'{ms}-0'):%Y-%m-%dT%H:%M:%S} UTC; it is "
            f"{now:%Y-%m-%dT%H:%M:%S} UTC now; a time without a zone is UTC: write it with one (+08:00), or use 'new'"
        )
        raise SettingsError(msg)
    return _before(ms, sequence)


def group_end(until: str) -> str:
    """Return the id of the last entry that `until` includes; '$' stands for the topic's last entry at the start.

    until     'now' (or 'new'), an ISO 8601 time (UTC without an offset) or an entry id; all inclusive
    raises    SettingsError: none of these
    """
    if until in ("now", "new"):
        return "$"
    expected = "'now', an ISO time or an entry id"
    ms, sequence = id_named(until, name="until", expected=expected, sequence=MAX_NUMBER)
    return f"{ms}-{sequence}"


def _before(ms: int, sequence: int) -> str:
    if sequence:
        return f"{ms}-{sequence - 1}"
    return f"{ms - 1}-{MAX_NUMBER}" if ms else "0-0"
