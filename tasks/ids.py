"""Entry ids: '<milliseconds>-<sequence>', as Redis gives them by its clock, or a client by whatever it likes."""

from datetime import UTC, datetime

__all__ = ["id_numbers", "id_time"]

# The end of the 30th of December 9999: the last day that there is in every time zone.
_LAST_MS = 253_402_214_399_000


def id_numbers(entry_id: str) -> tuple[int, int]:
    """Return an id's two numbers, which sort as the entries of a topic do.

    >>> id_numbers("9-10") < id_numbers("10-9")
    True
    """
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence)


def id_time(entry_id: str) -> datetime:
    """Return the time that an id tells, in UTC; of one beyond the year 9999, which is no time, nearly the end of that.

    >>> f"{id_time('1767225600000-0'):%Y-%m-%d}", id_time("1767225600000000000-0").year
    ('2026-01-01', 9999)
    """
    return datetime.fromtimestamp(min(id_numbers(entry_id)[0], _LAST_MS) / 1000, UTC)
