"""Types of numpy, pandas and Arrow that a state may hold: scalars, arrays, frames. Loads all three libraries."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.codec.frames import decode_stream, encode_stream, weigh_stream
from tasks.codec.limits import Budget, Limits
from tasks.codec.pandas_index import INDEXES
from tasks.codec.scalars import dtype_of, dtype_words
from tasks.codec.state_types import Extension, checked
from tasks.errors import EncodeError, PoisonEntryError

__all__ = ["ARRAY_TYPES"]

_FRAMES = (pd.DataFrame, pd.Series, *INDEXES, pa.Table)
_UNITS = ("s", "ms", "us", "ns")


def _dtype_words(dtype: np.dtype) -> Any:
    """Return a dtype as `dtype_words` does; by its letter if its text is that of another type, such as a long long."""
    if dtype.hasobject or np.lib.format.drop_metadata(dtype) is not dtype or issubclass(dtype.type, np.record):
        got = "metadata" if not dtype.hasobject and dtype.type is not np.record else "objects or records in it"
        msg = f"expected a dtype that its text states in full, got one with {got}; use astype()"
        raise EncodeError(msg)
    words = dtype_words(dtype)
    return dtype.char if type(words) is str and np.dtype(words).type is not dtype.type else words


def _read_array(words: Any, shape: list[int], order: Any, data: bytes) -> np.ndarray:
    dtype = dtype_of(words)
    if dtype.hasobject or not dtype.itemsize or len(data) != math.prod(shape) * dtype.itemsize:
        msg = "expected as many bytes as a shape and dtype need, got others"
        raise PoisonEntryError(msg)
    return np.ndarray(shape, dtype=dtype, buffer=bytearray(data), order=order)


def _number_parts(value: np.generic) -> tuple[Any, ...]:
    return (_NUMBER_WORDS.get(type(value)) or _dtype_words(value.dtype), value.tobytes())


def _number(parts: list[Any]) -> Any:
    words, data = parts
    if type(words) is str and (dtype := _NUMBER_DTYPES.get(words)) and len(checked(data, bytes)) == dtype.itemsize:
        return np.frombuffer(data, dtype)[0]
    return _read_array(words, [], "C", checked(data, bytes))[()]


def _order(array: np.ndarray) -> str:
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def _array_parts(value: np.ndarray) -> list[Any]:
    order: Any = _order(value)
    if value.dtype == object:
        return [None, list(value.shape), order, *value.ravel(order)]
    return [_dtype_words(value.dtype), list(value.shape), order, value.tobytes(order)]


def _array(parts: list[Any]) -> np.ndarray:
    words, shape, order, *items = parts
    checked(order, str)
    if words is not None:
        (data,) = items
        return _read_array(words, checked(shape, list), order, checked(data, bytes))
    flat = np.empty(len(items), dtype=object)
    for n, item in enumerate(items):  # at once, numpy would look into lists
        flat[n] = item
    return flat.reshape(checked(shape, list), order=order)


def _stamp_parts(value: pd.Timestamp) -> tuple[Any, ...]:
    parts = (int(value.asm8.view("i8")), value.unit, value.tzinfo)
    back = _stamp([*parts])
    if back != value or back.fold != value.fold or back.isoformat() != value.isoformat():
        msg = "expected a Timestamp that its instant and its zone state in full, got another; use isoformat()"
        raise EncodeError(msg)
    return parts


def _stamp(parts: list[Any]) -> Any:
    count, unit, zone = parts
    stamp: Any = pd.Timestamp(np.datetime64(checked(count, int), _unit(unit)))
    return stamp if zone is None else stamp.tz_localize("UTC").tz_convert(zone)


def _unit(unit: Any) -> Any:
    if unit in _UNITS:
        return unit
    msg = f"expected a unit out of {', '.join(_UNITS)}, got another"
    raise PoisonEntryError(msg)


def _period_parts(value: pd.Period) -> tuple[Any, ...]:
    parts = (value.ordinal, value.freqstr)
    back = _period([*parts])
    if back != value or back.freq != value.freq:
        msg = "expected a Period whose frequency its text states in full, got another; use to_timestamp()"
        raise EncodeError(msg)
    return parts


def _period(parts: list[Any]) -> Any:
    ordinal, freq = parts
    return pd.Period(ordinal=checked(ordinal, int), freq=checked(freq, str))


def _weighed(data: bytes) -> Budget:
    """Return a budget for one stream, in proportion to its bytes, after spending from it what decoding will take.

    Uncompressed, a bit may become a pointer of 8 bytes and an object beside it.
    """
    budget = Budget(Limits(max_decoded_bytes=2**20 + 1024 * len(data)), is_weighed=True)
    weigh_stream(data, budget)
    return budget


def _stream_parts(value: Any) -> tuple[bytes]:
    data = encode_stream(value)
    try:
        _weighed(data)
    except PoisonEntryError as error:
        raise EncodeError(str(error)) from error
    return (data,)


def _stream(parts: list[Any]) -> Any:
    (data,) = parts
    checked(data, bytes)
    return checked(decode_stream(data, _weighed(data)), *_FRAMES)


def _categorical_parts(value: pd.Categorical) -> tuple[bytes]:
    return _stream_parts(pd.Series(value, copy=False))


def _categorical(parts: list[Any]) -> pd.Categorical:
    series = checked(_stream(parts), pd.Series)
    return checked(series.array, pd.Categorical)


_NUMBER_TYPES = {np.dtype(code).type for code in np.typecodes["All"]} - {np.object_, np.str_, np.bytes_}
# The types whose dtype is always the same, so that each scalar need not describe its own in 10 us.
_NUMBER_WORDS = {kind: _dtype_words(np.dtype(kind)) for kind in _NUMBER_TYPES if np.dtype(kind).kind in "biufc"}
_NUMBER_DTYPES = {words: np.dtype(words) for words in _NUMBER_WORDS.values()}

ARRAY_TYPES = (
    *(Extension(32, kind, _number_parts, _number) for kind in _NUMBER_TYPES),
    Extension(33, np.str_, lambda value: (str(value),), lambda parts: np.str_(checked(*parts, str))),
    Extension(34, np.bytes_, lambda value: (bytes(value),), lambda parts: np.bytes_(checked(*parts, bytes))),
    Extension(35, np.ndarray, _array_parts, _array),
    Extension(40, pd.Timestamp, _stamp_parts, _stamp),
    Extension(
        41,
        pd.Timedelta,
        lambda value: (int(value.asm8.view("i8")), value.unit),
        lambda parts: pd.Timedelta(np.timedelta64(checked(parts[0], int), _unit(parts[1]))),
    ),
    Extension(42, pd.Period, _period_parts, _period),
    Extension(
        43, pd.Interval, lambda value: (value.left, value.right, value.closed), lambda parts: pd.Interval(*parts)
    ),
    Extension(44, type(pd.NaT), lambda _: (), lambda _: pd.NaT),
    Extension(45, type(pd.NA), lambda _: (), lambda _: pd.NA),
    *(Extension(46, kind, _stream_parts, _stream) for kind in _FRAMES),
    Extension(47, pd.Categorical, _categorical_parts, _categorical),
)
