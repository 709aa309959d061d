"""Times in the local zone, which is always named: servers, runs and readers may be in several."""

from datetime import UTC, datetime

__all__ = ["clock", "moment"]


def clock(time: datetime) -> str:
    """Return the time of day with its zone, and the day if it is not today's.

    >>> clock(datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)).startswith("2020-01-0")
    True
    """
    local = time.astimezone()
    day = "" if local.date() == datetime.now(UTC).astimezone().date() else f"{local:%Y-%m-%d} "
    return f"{day}{local:%H:%M:%S} {_zone(local)}"


def moment(time: datetime) -> str:
    """Return day and time with the zone.

    >>> moment(datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)).startswith("2020-01-0")
    True
    """
    local = time.astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S} {_zone(local)}"


def _zone(local: datetime) -> str:
    """Return the zone's name, such as CET; where it has none but a number, its distance from UTC."""
    name = f"{local:%Z}"
    return name if name.isalpha() else f"{local:%z}"
