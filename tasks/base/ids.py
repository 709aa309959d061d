"""Entry ids, '<milliseconds>-<sequence>': Redis assigns them by its clock; clients may choose any."""

import re
from datetime import UTC, datetime

from tasks.errors import SettingsError

__all__ = ["MAX_NUMBER", "id_named", "id_numbers", "id_time"]

MAX_NUMBER = 2**64 - 1
"""The largest value of each of an id's two numbers."""
_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
# Such text means a month, not an id in the first seconds of 1970.
_MONTH = re.compile(r"(?:19|20)[0-9]{2}-[0-9]{1,2}")
# Milliseconds from 2001 to 2286, or nanoseconds, which some clients write; 8, 12 or 14 digits are a date or a time.
_FIRST_NUMBER = re.compile(r"0|[0-9]{13}|[0-9]{15,20}")
# The end of 30 December 9999: the last day that exists in every time zone.
_LAST_MS = 253_402_214_399_000


def id_numbers(entry_id: str) -> tuple[int, int]:
    """Return an id's two numbers, which sort in the order of a topic's entries.

    >>> id_numbers("9-10") < id_numbers("10-9")
    True
    """
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence)


def id_named(text: str, *, name: str, expected: str, sequence: int) -> tuple[int, int]:
    """Parse an id, an id's first number, or an ISO 8601 time (UTC without an offset) into an id's two numbers.

    name      the option, for the message
    expected  the accepted forms, for the message
    sequence  the second number, if the text has none
    raises    SettingsError: the text has none of these forms

    >>> [id_named(text, name="until", expected="an id", sequence=9) for text in ("5-1", "1700000000000", "19700102")]
    [(5, 1), (1700000000000, 9), (86400000, 9)]
    """
    numbers = None
    if (found := _ID.fullmatch(text)) and not _MONTH.fullmatch(text):
        numbers = int(found[1]), int(found[2])
    elif _FIRST_NUMBER.fullmatch(text):
        numbers = int(text), sequence
    if numbers and max(numbers) <= MAX_NUMBER:
        return numbers
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        msg = (
            f"{name}: expected {expected}, got {text!r}; "
            "write a time with its day (2026-11-26T09:30), an id with both its numbers (1700000000000-0)"
        )
        raise SettingsError(msg) from error
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return max(0, round(aware.timestamp() * 1000)), sequence


def id_time(entry_id: str) -> datetime:
    """Return the time in an id, in UTC; for ids beyond the year 9999, which a datetime cannot hold, the end of that year.

    >>> f"{id_time('1767225600000-0'):%Y-%m-%d}", id_time("1767225600000000000-0").year
    ('2026-01-01', 9999)
    """
    return datetime.fromtimestamp(min(id_numbers(entry_id)[0], _LAST_MS) / 1000, UTC)
