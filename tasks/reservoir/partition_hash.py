"""The hash that spreads keys over partitions: stable, so it is the same in all versions, processes and machines.

The partition of a key is that of its text, hashed with BLAKE2b to 8 bytes, as a big-endian number modulo the number of
partitions. Other programs can compute it. The text of a key is

    text              itself, in UTF-8
    bytes             themselves
    a whole number    its decimal digits; so 1, 1.0, True, Decimal(1) and numpy's 1 are one key
    another number    the repr of Python's float; plain digits for a Decimal that equals no float
    a moment          nanoseconds since 1970 in UTC, in decimal digits; a naive moment counts as UTC, a date as its midnight
    a duration        nanoseconds, in decimal digits
    a time of day     nanoseconds since midnight, in decimal digits
    a missing value   empty: None, NaN, NaT and pandas.NA are one key

Keys that Python, numpy, pandas or polars compare as equal have equal text.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from tasks.base.plain_text import shortened
from tasks.errors import EncodeError

__all__ = ["HASH", "partition_for", "partitions_for"]

HASH = "blake2b"
"""The name of this hash, which is stored with each partitioned topic."""

_EPOCH, _EPOCH_UTC = datetime(1970, 1, 1), datetime(1970, 1, 1, tzinfo=UTC)  # noqa: DTZ001 - for naive moments
_MIDNIGHT = timedelta()
_MICROSECOND = timedelta(microseconds=1)
_SHORT = 100  # characters of a text whose hash is remembered

# The lengths of numpy's units in nanoseconds, and the number of parts in one for those that are shorter.
_LONGER = {
    "W": 604_800 * 10**9,
    "D": 86_400 * 10**9,
    "h": 3_600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "ns": 1,
    "generic": 1,
}
_SHORTER = {"ps": 10**3, "fs": 10**6, "as": 10**9}


def partition_for(key: Any, partitions: int) -> int:
    """Return the partition of a key: a number from 0 to `partitions` - 1, the same for equal keys.

    key       text, bytes, a number, a moment, a date, a time, a duration or a missing value, also as a scalar of numpy, pandas
              or pyarrow
    raises    EncodeError: any other key

    >>> partition_for("600000", 8), partition_for(600000, 8), partition_for(None, 8)
    (0, 0, 4)
    """
    kind = type(key)
    if (kind is str and len(key) <= _SHORT) or kind is int:  # most keys, and each comes often
        return _remembered(key) % partitions
    return _hashed(_text_of(key)) % partitions


def partitions_for(keys: Iterable[Any], partitions: int) -> list[int]:
    """Return the partition of each key, as `partition_for` does; in half its time for short text."""
    return [
        _remembered(key) % partitions if type(key) is str and len(key) <= _SHORT else partition_for(key, partitions)
        for key in keys
    ]


def _hashed(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest())


@lru_cache(maxsize=65_536)
def _remembered(key: str | int) -> int:
    return _hashed(_text_of(key))


def _text_of(key: Any) -> bytes:
    for kinds, text in _TEXTS:
        if isinstance(key, kinds):
            return text(key)
    plain = _plain(key)
    if type(plain) is not type(key):
        return _text_of(plain)
    msg = (
        "expected a key that is text, bytes, a number, a moment, a date, a time, a duration or a missing value, got a "
        f"{shortened(type(key).__name__, 80)}; nothing was pushed; choose another field as the key"
    )
    raise EncodeError(msg)


def _plain(key: Any) -> Any:
    """Return a scalar of another library as a value of Python, a moment or duration as an integer; other keys unchanged."""
    library = type(key).__module__.partition(".")[0]
    if library == "pyarrow" and hasattr(key, "as_py"):
        return key.as_py()
    if library == "pandas" and type(key).__name__ == "NAType":
        return None
    if library == "numpy" and getattr(key, "ndim", 1) == 0:
        return _nanoseconds(key) if key.dtype.kind in "mM" else key.item()
    return key


def _nanoseconds(key: Any) -> int | None:
    """Return the nanoseconds of a datetime64 or timedelta64 of numpy; None for NaT."""
    import numpy as np  # noqa: PLC0415 - loaded already if there is such a key; plain keys do without

    if np.isnat(key):
        return None
    unit, step = np.datetime_data(key.dtype)
    if key.dtype.kind == "M" and unit in ("Y", "M"):  # their length differs
        key, unit, step = key.astype("datetime64[D]"), "D", 1
    amount = int(key.astype("int64")) * step
    if unit in _SHORTER:
        return amount // _SHORTER[unit]
    if unit not in _LONGER:
        msg = "expected a key that is a duration of fixed length, got months or years; nothing was pushed; choose another field as the key"
        raise EncodeError(msg)
    return amount * _LONGER[unit]


def _whole(number: int) -> bytes:
    try:
        return b"%d" % number
    except ValueError as error:  # Python writes at most 4,300 digits
        msg = "expected a key of at most 4,300 digits; nothing was pushed; choose another field as the key"
        raise EncodeError(msg) from error


def _float(number: float) -> bytes:
    if number.is_integer():
        return _whole(int(number))
    return b"" if number != number else float.__repr__(number).encode()  # noqa: PLR0124 - NaN


def _decimal(number: Decimal) -> bytes:
    if number.is_nan():
        return b""
    if number.is_infinite() or float(number) == number:
        return _float(float(number))
    if number == number.to_integral_value():
        return _whole(int(number))
    return format(number, "f").rstrip("0").encode()


def _moment(moment: datetime) -> bytes:
    if hasattr(moment, "asm8"):  # a Timestamp of pandas can be finer than a datetime, or lie out of its range
        return _text_of(moment.asm8)
    since = moment - (_EPOCH if moment.utcoffset() is None else _EPOCH_UTC)
    return _whole(since // _MICROSECOND * 1_000)


def _date(day: date) -> bytes:
    return _whole((day.toordinal() - _EPOCH.toordinal()) * _LONGER["D"])


def _time(at: time) -> bytes:
    since = timedelta(hours=at.hour, minutes=at.minute, seconds=at.second, microseconds=at.microsecond)
    return _whole((since - (at.utcoffset() or _MIDNIGHT)) // _MICROSECOND * 1_000)


def _duration(duration: timedelta) -> bytes:
    return _text_of(duration.asm8) if hasattr(duration, "asm8") else _whole(duration // _MICROSECOND * 1_000)


_TEXTS: list[tuple[Any, Callable[[Any], bytes]]] = [
    (str, lambda key: str.encode(key, errors="surrogatepass")),
    (int, lambda key: _whole(int(key))),
    (float, _float),
    (type(None), lambda _: b""),
    ((bytes, bytearray, memoryview), bytes),
    (Decimal, _decimal),
    (datetime, _moment),  # which is a date
    (date, _date),
    (time, _time),
    (timedelta, _duration),
]
