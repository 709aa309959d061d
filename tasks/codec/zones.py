"""Time zones <-> the names under which Arrow keeps them."""

import datetime as dt
import re
from functools import lru_cache
from zoneinfo import ZoneInfo

from tasks.errors import EncodeError

__all__ = ["zone", "zone_text"]

_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")


def zone_text(tz: dt.tzinfo) -> str:
    """Return the name under which Arrow keeps a time zone: 'UTC', '+01:00' or one of the tz database.

    raises    EncodeError: a zone without such a name
    """
    if tz is dt.UTC:
        return "UTC"
    if type(tz) is dt.timezone:
        minutes, rest = divmod(tz.utcoffset(None), dt.timedelta(minutes=1))
        if not rest:
            return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}" if minutes else "UTC"
    name = getattr(tz, "key", None) or getattr(tz, "zone", None)  # zoneinfo's, pytz'
    if isinstance(name, str) and _is_zone(name):
        return name
    msg = "expected a time zone with a name or whole minutes, got another; use zoneinfo.ZoneInfo(NAME)"
    raise EncodeError(msg)


def zone(text: str) -> dt.tzinfo:
    """Return the time zone of a name; raise for an unknown one."""
    if text == "UTC":
        return dt.UTC
    if found := _OFFSET.fullmatch(text):
        sign, hours, minutes = found.groups()
        offset = dt.timedelta(hours=int(hours), minutes=int(minutes))
        return dt.timezone(-offset if sign == "-" else offset)
    return ZoneInfo(text)


@lru_cache(maxsize=256)
def _is_zone(name: str) -> bool:
    try:
        zone(name)
    except Exception:  # noqa: BLE001 - ValueError, OSError or KeyError, by the name and the platform
        return False
    return True
