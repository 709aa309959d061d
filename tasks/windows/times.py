"""Event times of elements, from a field, a column or a function, as milliseconds since the epoch."""

import datetime as dt
from collections.abc import Callable
from numbers import Integral
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

__all__ = ["TimeOf", "column", "times_of_rows", "value_time"]

TimeOf = Callable[[Any], Any] | str

_UTC = dt.UTC


def value_time(value: Any, zone: ZoneInfo | None) -> int:
    """Return a time in milliseconds since the epoch, rounded down.

    value    a datetime, Timestamp or ISO text, in `zone` (or UTC) if it has none of its own, or whole milliseconds since the epoch.
             Without a zone, a time that clocks show twice is the first of the two, unless its `fold` is 1; one that they skip
             counts as if they had not been put forward yet
    raises   TypeError, ValueError: it is none of these
    """
    if type(value) is int:
        return value
    if isinstance(value, Integral) and not isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, str | np.datetime64):
        value = pd.Timestamp(value)
    if not isinstance(value, dt.datetime) or value is pd.NaT:
        msg = (
            f"expected a time: a datetime, ISO text or whole milliseconds since the epoch, got a {type(value).__name__}"
        )
        raise TypeError(msg)
    if value.tzinfo is None:
        value = value.replace(tzinfo=zone or _UTC)
    return (value - _EPOCH) // _MS


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=_UTC)
_MS = dt.timedelta(milliseconds=1)


def times_of_rows(values: pd.Series | pd.Index, zone: ZoneInfo | None) -> np.ndarray:
    """Return the times of all rows in milliseconds since the epoch, rounded down, as int64.

    values   of a column: what `value_time` takes
    raises   TypeError, ValueError: a row has no time
    """
    if values.dtype.kind in "iu":
        return np.asarray(values, dtype="int64")
    found = values if isinstance(values.dtype, pd.DatetimeTZDtype) else pd.Series(pd.to_datetime(values.to_numpy()))
    index = pd.DatetimeIndex(found)
    if index.hasnans:
        msg = f"expected a time in each row, got {int(index.isna().sum())} without"
        raise ValueError(msg)
    if index.tz is not None or zone is None:
        return _milliseconds(index)
    local = index.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    times = _milliseconds(local)
    for n in np.flatnonzero(local.isna()):  # where clocks change, as a single value
        times[n] = value_time(index[n].to_pydatetime(), zone)
    return times


def _milliseconds(index: pd.DatetimeIndex) -> np.ndarray:
    in_utc = index if index.tz is None else index.tz_convert(None)
    return np.asarray(in_utc).astype("datetime64[ms]").astype("int64")


def column(frame: Any, name: Any) -> Any:
    """Return a column of a frame, or a level of its index, by name.

    raises    KeyError: there is none
    """
    if name in frame.columns:
        return frame[name]
    if name in frame.index.names:
        return frame.index.get_level_values(name)
    msg = f"expected a column or index level {name!r}, got columns {list(frame.columns)[:8]} and index {list(frame.index.names)}"
    raise KeyError(msg)
