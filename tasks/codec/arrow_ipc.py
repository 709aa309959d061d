"""Arrow IPC streams <-> Arrow tables: which types are read and written, and how."""

from typing import Any

import pyarrow as pa
from pyarrow import types

from tasks.base.plain_text import shortened
from tasks.errors import EncodeError

__all__ = ["check_type", "flattened", "open_stream", "storage", "write_stream"]

_FLAT = frozenset(
    kind.id
    for kind in (
        *(pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
        *(pa.float16(), pa.float32(), pa.float64(), pa.date32(), pa.date64(), pa.time32("s"), pa.time64("us")),
        *(pa.timestamp("s"), pa.duration("s"), pa.string(), pa.large_string(), pa.binary(), pa.large_binary()),
        *(pa.decimal32(9, 2), pa.decimal64(9, 2), pa.decimal128(9, 2), pa.decimal256(9, 2)),
    )
)
_FOREIGN = _FLAT | {pa.string_view().id, pa.binary_view().id}
_LISTS = (types.is_list, types.is_large_list, types.is_map)


def check_type(kind: pa.DataType, *, nested: bool = False, foreign: bool = False) -> None:
    """Accept types whose values take memory in proportion to their bytes; refuse the others.

    foreign   also accept the types that only other programs write: nulls, views and extension types
    raises    EncodeError: run-end encoded, union and zero-width types, dictionaries that are nested or hold nested values,
              and, without `foreign`, the types above
    """
    if kind.id in _FLAT:
        return
    if foreign:
        kind = storage(kind)
        if types.is_null(kind) or kind.id in _FOREIGN:
            return
    if types.is_fixed_size_binary(kind) and kind.byte_width:
        return
    if types.is_dictionary(kind) and not nested and kind.value_type.id in (_FOREIGN if foreign else _FLAT):
        return
    listed = any(test(kind) for test in _LISTS) or (types.is_fixed_size_list(kind) and kind.list_size)
    if listed or (types.is_struct(kind) and kind.num_fields):
        for child in _children(kind):
            check_type(child, nested=True, foreign=foreign)
        return
    msg = (
        "expected numbers, bool, text, binary, dates, times, decimals, lists, maps, structs "
        f"or one level of dictionary, got the Arrow type {_named(kind)}"
    )
    raise EncodeError(msg)


def storage(kind: pa.DataType) -> pa.DataType:
    """Return the storage type of an extension type (uuid, json), and any other type unchanged."""
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind


def _named(kind: pa.DataType) -> str:
    return shortened(str(kind), 60)


def _children(kind: pa.DataType) -> list[pa.DataType]:
    if types.is_map(kind):  # one child, a struct of key and item
        return [pa.struct([kind.key_field, kind.item_field])]
    return [kind.field(i).type for i in range(kind.num_fields)]


def flattened(kind: pa.DataType, *, in_struct: bool = False) -> list[tuple[pa.DataType, bool]]:
    """Return a type and all those in it, each with whether it lies in a struct, whose values become Python objects."""
    if kind.id in _FLAT:
        return [(kind, in_struct)]
    kind = storage(kind)
    found = [(kind, in_struct)]
    if types.is_nested(kind):
        for child in _children(kind):
            found += flattened(child, in_struct=in_struct or types.is_struct(kind))
    return found


def write_stream(data: pa.RecordBatch | pa.Table, *, compression: str | None) -> bytes:
    """Return `data` as one IPC stream; an empty batch is written too, because of its dictionaries."""
    options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)

    def write_to(sink: Any) -> None:
        with pa.ipc.new_stream(sink, data.schema, options=options) as writer:
            if isinstance(data, pa.RecordBatch):
                writer.write_batch(data)
            else:
                writer.write_table(data)

    if compression:
        sink = pa.BufferOutputStream()
        write_to(sink)
        return sink.getvalue().to_pybytes()
    # Computing the size first is cheap, and avoids copies of a growing buffer.
    size = pa.MockOutputStream()
    write_to(size)
    buffer = pa.allocate_buffer(size.size())
    write_to(pa.FixedSizeBufferWriter(buffer))
    return buffer.to_pybytes()


def open_stream(data: bytes) -> pa.Table:
    """Read a stream that `weigh` accepted, and check every offset and index in it.

    Without `validate(full=True)` a single wrong offset kills the process in `to_pandas`.
    """
    options = pa.ipc.IpcReadOptions(use_threads=False)
    with pa.ipc.open_stream(data, options=options) as reader:
        table = reader.read_all()
    table.validate(full=True)
    return table
