"""Frames, arrays, tables, numbers of numpy and moments of time <-> Arrow IPC streams.

Columns are Arrow columns under their own names, so any Arrow reader can use them; what Arrow has no place for (the kind,
the index, exact dtypes) is the layout. Streams without a layout are frames of other libraries and programs.
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.codec.arrow_frames import handed_over, pack_table, read_table, unpack_table
from tasks.codec.arrow_ipc import open_stream, write_stream
from tasks.codec.columns import is_plain
from tasks.codec.foreign_frames import foreign_frame
from tasks.codec.frame_parts import FramePart
from tasks.codec.ipc_weight import Becomes, weigh
from tasks.codec.layouts import Layout, layout_of, sealed
from tasks.codec.limits import Budget
from tasks.codec.object_columns import is_object, object_becomes
from tasks.codec.pandas_frames import inferred, pack_frame, pack_series, unpack_frame, unpack_series
from tasks.codec.pandas_index import INDEXES, index_width, pack_lone_index, unpack_index
from tasks.codec.scalars import is_scalar, pack_array, pack_scalar, unpack_array, unpack_scalar
from tasks.errors import EncodeError, PoisonEntryError

__all__ = ["can_encode", "decode_stream", "encode_stream", "weigh_stream"]

_ARROW_STRINGS = is_plain("string[pyarrow,nan]")  # as by default; an option of pandas can make each text a str
_ARROW_TEXT = {pa.string().id, pa.large_string().id, pa.string_view().id} if _ARROW_STRINGS else set()
_ARRAY, _OBJECTS = Becomes(), Becomes(1)
_FRAMES = frozenset({"DataFrame", "Table"})


def can_encode(value: Any) -> bool:
    """Return whether a value is of a kind that travels as an Arrow IPC stream."""
    return type(value) in _PACKERS or is_scalar(value) or _is_arrow_stream(value)


def _is_arrow_stream(value: Any) -> bool:
    """Return whether a value is a frame of another library; subclasses of pandas' may hold more than Arrow gets."""
    return hasattr(type(value), "__arrow_c_stream__") and not isinstance(value, pd.DataFrame | pd.Series | pa.Table)


def encode_stream(
    value: Any,
    *,
    compression: str | None = None,
    max_bytes: int = 2**63,
    on_inferred: Callable[[], None] | None = None,
) -> bytes:
    """Return a value as one Arrow IPC stream that decodes to an equal one.

    max_bytes     how many bytes are read of another library's frame, which may be a query's result
    on_inferred   called if a DataFrame of objects is encoded after `infer_objects()`, with equal values of other
                  dtypes; default: such a frame is refused
    raises        EncodeError: something in it would not come back equal; the message names it and the cure
    """
    packer = _PACKERS.get(type(value))
    if packer is None:
        if _is_arrow_stream(value):
            return write_stream(read_table(value, max_bytes=max_bytes), compression=compression)
        packer = pack_scalar
    try:
        packed = packer(value)
    except EncodeError:
        if on_inferred is None or type(value) is not pd.DataFrame or (frame := inferred(value)) is None:
            raise
        packed = pack_frame(frame)
        on_inferred()
    return sealed(*packed, compression=compression)


def decode_stream(data: bytes, budget: Budget, *, frames: str = "pandas") -> Any:
    """Return the value of one stream; without a layout it is a frame.

    frames    as what frames are returned: 'pandas', 'polars' or 'arrow'
    raises    PoisonEntryError: refused; any other Exception: malformed
    """
    if not budget.is_weighed:
        weigh_stream(data, budget)
    table = open_stream(data)
    layout = layout_of(table.schema)
    if layout and table.num_columns and table.num_rows != layout["rows"]:
        msg = "expected as many rows as were written, got others"
        raise PoisonEntryError(msg)
    if frames != "pandas" and (layout is None or layout["kind"] in _FRAMES):
        return handed_over(table, layout, frames)
    if layout is None:
        return foreign_frame(table)
    if unpacker := _UNPACKERS.get(layout["kind"]):
        return unpacker(table, layout, budget)
    return unpack_scalar(table.column(0), layout)


def weigh_stream(data: bytes, budget: Budget) -> None:
    """Spend from `budget` the memory that decoding `data` takes, without decoding it; raises as `decode_stream`."""
    schema = weigh(data, budget, becomes=lambda schema: _become(schema, budget))
    layout = layout_of(schema)
    if layout and 0 in (shape := layout.get("shape") or ()):
        budget.spend_rows(max(shape))  # an array without bytes, whose rows are rows all the same
    for text in _nested_streams(layout):
        weigh_stream(base64.b64decode(text), budget)


def _nested_streams(part: Any) -> Iterator[str]:
    """Yield the streams that a layout holds: column labels and names that JSON has no words for."""
    if isinstance(part, dict):
        if "stream" in part:
            yield part["stream"]
        for key, inner in part.items():
            if key != "attrs":  # the user's own
                yield from _nested_streams(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _nested_streams(inner)


def _become(schema: pa.Schema, budget: Budget) -> Sequence[Becomes]:
    layout = layout_of(schema)
    if layout is None:
        return [_OBJECTS if kind.id not in _ARROW_TEXT else _ARRAY for kind in schema.types]
    if not len(schema):  # no column to count them by
        budget.spend_rows(layout["rows"])
    words = layout.get("dtypes") or [""] * len(schema)
    becomes = [object_becomes(word) if is_object(word) else _ARRAY for word in words]
    if isinstance(index := layout.get("index"), dict) and index.get("multi"):
        first = len(words) - index_width(index)  # a level has its values, and a code for each row
        becomes[first:] = [one._replace(beside=one.beside + 8) for one in becomes[first:]]
    return becomes


_PACKERS: dict[type, Callable[[Any], tuple[Any, Layout]]] = {
    pd.DataFrame: pack_frame,
    pd.Series: pack_series,
    **dict.fromkeys(INDEXES, pack_lone_index),
    np.ndarray: pack_array,
    pa.Table: pack_table,
    FramePart: FramePart.packed,
}
_UNPACKERS: dict[str, Callable[[pa.Table, Layout, Budget], Any]] = {
    "DataFrame": unpack_frame,
    "Series": unpack_series,
    "Index": unpack_index,
    "Table": unpack_table,
    "ndarray": lambda table, layout, _: unpack_array(table.column(0), layout),
}
