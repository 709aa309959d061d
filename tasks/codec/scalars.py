"""Numpy's arrays and numbers, moments of time and decimals <-> one Arrow column and a layout.

A row of plain numbers is a column of them; any other array is one cell of bytes. A moment is one Arrow
value of its type; a Decimal is its text, since Arrow's decimals know no exponent, NaN or -0.
"""

import datetime as dt
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.codec.layouts import Layout
from tasks.codec.zones import zone, zone_text
from tasks.errors import EncodeError, PoisonEntryError

__all__ = ["dtype_of", "dtype_words", "is_scalar", "pack_array", "pack_scalar", "unpack_array", "unpack_scalar"]


def is_scalar(value: Any) -> bool:
    """Return whether a value is a numpy scalar, a moment or a Decimal."""
    return type(value) in _MOMENTS or isinstance(value, np.generic)


def pack_scalar(value: Any) -> tuple[pa.RecordBatch, Layout]:
    """Return one scalar as a column of one row.

    raises    EncodeError: a time zone without a name, a value out of Arrow's range, fold on a naive time
    """
    return _pack_number(value) if isinstance(value, np.generic) else _pack_moment(value)


def unpack_scalar(column: pa.ChunkedArray, layout: Layout) -> Any:
    """Return the scalar that was packed."""
    return _unpack_number(column, layout) if layout["kind"] == "numpy" else _unpack_moment(column, layout["kind"])


def pack_array(array: np.ndarray, kind: str = "ndarray") -> tuple[pa.RecordBatch, Layout]:
    """Return an array as one column: a row of plain numbers as such, any other as one cell of bytes.

    raises    EncodeError: objects in it, or a dtype that cannot be written down
    """
    dtype = array.dtype
    if dtype.hasobject:
        msg = "expected an array of numbers, text, bytes or moments, got objects; use astype(), or a Series"
        raise EncodeError(msg)
    words = dtype_words(dtype)
    if array.ndim == 1 and dtype.kind in "iuf" and dtype.isnative and dtype.itemsize <= 8:  # noqa: PLR2004
        column = pa.array(array, from_pandas=False)
    else:
        column = pa.array([array.tobytes()], type=pa.large_binary())
    layout = {"kind": kind, "rows": len(column), "dtype": words, "shape": list(array.shape)}
    return pa.RecordBatch.from_arrays([column], names=["values"]), layout


def dtype_words(dtype: np.dtype) -> Any:
    """Return a dtype as text, or as lists of the texts of its fields.

    raises    EncodeError: a dtype that these do not state in full
    """
    words = _lists(np.lib.format.dtype_to_descr(dtype))
    if not dtype.itemsize or dtype_of(words) != dtype:
        msg = f"expected a dtype that its text states in full, got one of kind {dtype.kind!r}; use astype()"
        raise EncodeError(msg)
    return words


def _lists(descr: Any) -> Any:
    return [_lists(part) for part in descr] if isinstance(descr, (list, tuple)) else descr


def dtype_of(descr: Any) -> np.dtype:
    """Return the dtype that `numpy.lib.format.dtype_to_descr` described, its tuples as lists."""
    if isinstance(descr, str):
        return np.dtype(descr)
    if len(descr) == 2 and isinstance(descr[0], str) and not isinstance(descr[1], list):  # noqa: PLR2004
        return np.dtype(descr[0])
    return np.lib.format.descr_to_dtype([_field(*field) for field in descr])


def _field(name: Any, descr: Any, *shape: Any) -> tuple[Any, ...]:
    name = tuple(name) if isinstance(name, list) else name
    inner = [_field(*field) for field in descr] if isinstance(descr, list) else descr
    return (name, inner, *(tuple(part) for part in shape))


def unpack_array(column: pa.ChunkedArray, layout: Layout) -> np.ndarray:
    """Return the array that was packed: writable, in C order.

    raises    PoisonEntryError: bytes that do not fill its shape; any exception of numpy: malformed
    """
    dtype = dtype_of(layout["dtype"])
    shape = tuple(layout["shape"])
    flat = bytearray(column[0].as_buffer() if pa.types.is_large_binary(column.type) else column.to_numpy())
    if dtype.hasobject or not dtype.itemsize or len(flat) != math.prod(shape) * dtype.itemsize:
        msg = "expected as many bytes as its shape and dtype need, got others"
        raise PoisonEntryError(msg)
    return np.ndarray(shape, dtype=dtype, buffer=flat)


def _pack_number(scalar: np.generic) -> tuple[pa.RecordBatch, Layout]:
    array = np.asarray(scalar)
    back = array[()]
    if type(back) is not type(scalar) or (isinstance(scalar, (str, bytes)) and len(back) != len(scalar)):
        msg = "expected a numpy scalar that an array keeps, got text or bytes that end in NUL; use .item()"
        raise EncodeError(msg)
    return pack_array(array, "numpy")


def _unpack_number(column: pa.ChunkedArray, layout: Layout) -> Any:
    return unpack_array(column, {**layout, "shape": []})[()]


_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - naive, as the datetimes it counts to
_MICROSECOND = dt.timedelta(microseconds=1)


def _pack_moment(value: Any) -> tuple[pa.RecordBatch, Layout]:
    """Return a moment or Decimal as a column of one row, after checking that it comes back equal."""
    kind = type(value).__name__
    layout: Layout = {"kind": kind, "rows": 1}
    try:
        array = _MOMENTS[type(value)](value)
        back = _unpack_moment(pa.chunked_array([array]), kind)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        msg = f"expected a {kind} that Arrow can hold, got one out of its range; use isoformat() or str()"
        raise EncodeError(msg) from error
    if not _same(back, value):
        msg = f"expected a {kind} that its instant and its zone state in full, got another; use isoformat()"
        raise EncodeError(msg)
    return pa.RecordBatch.from_arrays([array], names=["value"]), layout


def _same(back: Any, value: Any) -> bool:
    if type(value) is Decimal:
        return str(back) == str(value)
    if isinstance(value, (dt.datetime, dt.time)):
        zones = [moment.tzinfo and zone_text(moment.tzinfo) for moment in (back, value)]
        if zones[0] != zones[1] or back.fold != value.fold or back.isoformat() != value.isoformat():
            return False
    return back == value and getattr(back, "unit", None) == getattr(value, "unit", None)


def _datetime(value: dt.datetime) -> pa.Array:
    if value.tzinfo is None:
        count, name = (value - _EPOCH) // _MICROSECOND, None
    else:
        count, name = (value - _EPOCH.replace(tzinfo=dt.UTC)) // _MICROSECOND, zone_text(value.tzinfo)
    return pa.array([count], type=pa.int64()).cast(pa.timestamp("us", name))


def _timestamp(value: pd.Timestamp) -> pa.Array:
    name = None if value.tzinfo is None else zone_text(value.tzinfo)
    return pa.array([value.asm8.view("i8")], type=pa.int64()).cast(pa.timestamp(value.unit, name))


def _time(value: dt.time) -> pa.Array:
    if value.tzinfo is not None:
        msg = "expected a time without a zone, got one with; use a datetime, or isoformat()"
        raise EncodeError(msg)
    return pa.array([value], type=pa.time64("us"))


_MOMENTS: dict[type, Callable[[Any], pa.Array]] = {
    dt.datetime: _datetime,
    dt.date: lambda value: pa.array([value], type=pa.date32()),
    dt.time: _time,
    dt.timedelta: lambda value: pa.array([value // _MICROSECOND], type=pa.int64()).cast(pa.duration("us")),
    pd.Timestamp: _timestamp,
    pd.Timedelta: lambda value: pa.array([value.asm8.view("i8")], type=pa.int64()).cast(pa.duration(value.unit)),
    Decimal: lambda value: pa.array([str(value)]),
}


def _unpack_moment(column: pa.ChunkedArray, kind: str) -> Any:
    if kind == "Decimal":
        return Decimal(column[0].as_py())
    if kind in ("date", "time"):
        value = column[0].as_py()
        if type(value).__name__ != kind:
            msg = f"expected a {kind}, got something else"
            raise PoisonEntryError(msg)
        return value
    count = column.cast(pa.int64())[0].as_py()
    if kind == "timedelta":
        return count * _MICROSECOND
    unit = column.type.unit
    if kind == "Timedelta":
        return pd.Timedelta(np.timedelta64(count, unit))
    name = column.type.tz
    if kind == "Timestamp":
        stamp = pd.Timestamp(np.datetime64(count, unit))
        return stamp if name is None else stamp.tz_localize("UTC").tz_convert(zone(name))
    moment = _EPOCH + count * _MICROSECOND
    return moment if name is None else moment.replace(tzinfo=dt.UTC).astimezone(zone(name))
