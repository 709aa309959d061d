"""Arrow IPC streams <-> Arrow tables, within limits that are checked before any work is done.

A stream of a few hundred bytes can claim gigabytes: compressed buffers, buffers that overlap, types that
take no bytes a row. So a stream is weighed from its messages' own words before it is read.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import types

from tasks.errors import EncodeError, PoisonEntryError
from tasks.limits import Budget

__all__ = ["OBJECT_BYTES", "check_type", "open_stream", "weigh", "write_stream"]

OBJECT_BYTES = 64  # a Python object and the reference to it: 57 bytes for a short str, 112 for a Decimal

# Bytes of Python objects that `to_pandas` makes of one value; types that stay arrays of numbers are not here.
_OBJECT_COSTS = (
    (types.is_boolean, 1),
    (types.is_date, 48),
    (types.is_time, 64),
    (types.is_decimal, 128),
    (types.is_string, OBJECT_BYTES),
    (types.is_large_string, OBJECT_BYTES),
    (types.is_binary, OBJECT_BYTES),
    (types.is_large_binary, OBJECT_BYTES),
    (types.is_fixed_size_binary, OBJECT_BYTES),
    (types.is_nested, 256),
)
_FLAT = (
    types.is_integer,
    types.is_floating,
    types.is_boolean,
    types.is_date,
    types.is_time,
    types.is_timestamp,
    types.is_duration,
    types.is_decimal,
    types.is_string,
    types.is_large_string,
    types.is_binary,
    types.is_large_binary,
)
_LISTS = (types.is_list, types.is_large_list, types.is_map)


def check_type(kind: pa.DataType, *, nested: bool = False) -> None:
    """Let pass the types whose values take memory in proportion to their bytes; refuse the others.

    raises    EncodeError: null, run-end encoded, view, union, extension and zero-width types, and
              dictionaries that are nested or hold nested values
    """
    if any(test(kind) for test in _FLAT):
        return
    if types.is_fixed_size_binary(kind) and kind.byte_width:
        return
    if types.is_dictionary(kind) and not nested and any(test(kind.value_type) for test in _FLAT):
        return
    listed = any(test(kind) for test in _LISTS) or (types.is_fixed_size_list(kind) and kind.list_size)
    if listed or (types.is_struct(kind) and kind.num_fields):
        for child in _children(kind):
            check_type(child, nested=True)
        return
    msg = (
        "expected numbers, bool, text, binary, dates, times, decimals, lists, maps, structs "
        f"or one level of dictionary, got the Arrow type {_named(kind)}"
    )
    raise EncodeError(msg)


def _named(kind: pa.DataType) -> str:
    text = str(kind)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - about a line


def _children(kind: pa.DataType) -> list[pa.DataType]:
    if types.is_map(kind):  # one child, a struct of key and item
        return [pa.struct([kind.key_field, kind.item_field])]
    return [kind.field(i).type for i in range(kind.num_fields)]


def _flattened(kind: pa.DataType) -> Iterator[pa.DataType]:
    yield kind
    if types.is_nested(kind):
        for child in _children(kind):
            yield from _flattened(child)


def write_stream(data: pa.RecordBatch | pa.Table, *, compression: str | None) -> bytes:
    """Return `data` as one IPC stream; an empty batch is written too, for its dictionaries."""
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
    # Its size is known for next to nothing, and a buffer that grows would be copied again and again.
    size = pa.MockOutputStream()
    write_to(size)
    buffer = pa.allocate_buffer(size.size())
    write_to(pa.FixedSizeBufferWriter(buffer))
    return buffer.to_pybytes()


def open_stream(data: bytes) -> pa.Table:
    """Read a stream that `weigh` let pass, and check every offset and index in it.

    Without `validate(full=True)` a single wrong offset kills the process in `to_pandas`.
    """
    options = pa.ipc.IpcReadOptions(use_threads=False)
    with pa.ipc.open_stream(data, options=options) as reader:
        table = reader.read_all()
    table.validate(full=True)
    return table


def weigh(data: bytes, budget: Budget, *, objects: Callable[[pa.Schema], Sequence[bool]]) -> pa.Schema:
    """Spend from `budget` what reading `data` will take, going by its messages alone; return its schema.

    objects   says of each field whether its values are to become Python objects
    raises    PoisonEntryError: too large, or not to be read safely; whatever pyarrow raises if malformed
    source    Arrow columnar format, "Encapsulated message format" and "Recordbatch message"
    """
    messages = iter(pa.ipc.MessageReader.open_stream(data))
    first = next(messages, None)
    if first is None or first.type != "schema":
        msg = "expected an Arrow IPC stream that begins with its schema"
        raise PoisonEntryError(msg)
    # Before the schema is built: of a field, Python keeps some 30 times its bytes.
    budget.spend_decoded(32 * first.metadata.size)
    schema = pa.ipc.read_schema(first)
    nodes = [list(_flattened(field.type)) for field in schema]
    budget.spend_columns(sum(map(len, nodes)))
    try:
        for field in schema:
            check_type(field.type)
    except EncodeError as error:
        raise PoisonEntryError(str(error)) from error
    costs = [
        _cost(kind) if becomes_objects else 0
        for kinds, becomes_objects in zip(nodes, objects(schema), strict=True)
        for kind in kinds
    ]
    for message in messages:
        _weigh_batch(message, costs, budget)
    return schema


def _cost(kind: pa.DataType) -> int:
    return next((cost for test, cost in _OBJECT_COSTS if test(kind)), 0)


def _weigh_batch(message: pa.ipc.Message, costs: list[int], budget: Budget) -> None:
    if message.type not in ("record batch", "dictionary"):
        msg = f"expected record batches after the schema, got a message of type {message.type!r}"
        raise PoisonEntryError(msg)
    if message.metadata_version != pa.ipc.MetadataVersion.V5:  # V4 hides its compression in custom metadata
        msg = "expected version 5 of Arrow's metadata (Arrow 1.0 and later), got an older one"
        raise PoisonEntryError(msg)
    header = _Flatbuffer(message.metadata.to_pybytes())
    batch = header.child(header.root, 2)
    is_dictionary = message.type == "dictionary"
    if is_dictionary:
        if header.byte(batch, 2):  # every delta copies the whole dictionary again
            msg = "expected whole dictionaries, got a delta"
            raise PoisonEntryError(msg)
        batch = header.child(batch, 1)
        costs = [OBJECT_BYTES]
    else:
        budget.spend_rows(header.long(batch, 0))
    lengths = header.pairs(batch, 1)[::2]
    buffers = header.pairs(batch, 2)
    if len(lengths) != len(costs) or min(lengths + buffers, default=0) < 0:
        msg = "expected one length for each column, got others"
        raise PoisonEntryError(msg)
    # 4 KiB a message and 256 bytes a column of it are what Python and pandas keep for an empty one.
    budget.spend_decoded(4096 + 256 * len(lengths) + sum(lengths))
    budget.spend_decoded(sum(length * cost for length, cost in zip(lengths, costs, strict=True)))
    budget.spend_decoded(sum(_decompressed(message.body, buffers) if header.has(batch, 3) else buffers[1::2]))


def _decompressed(body: pa.Buffer, buffers: list[int]) -> Iterator[int]:
    """Yield the size each compressed buffer claims in its first 8 bytes; -1 says it is stored as it is."""
    view = memoryview(body)
    for offset, length in zip(buffers[::2], buffers[1::2], strict=True):
        if length:
            (claimed,) = struct.unpack_from("<q", view, offset)
            yield length if claimed == -1 else claimed if claimed >= 0 else 2**63


class _Flatbuffer:
    """As much of flatbuffers as the lengths in a message's header need; pyarrow has verified them before."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.root = self._at("<I", 0)

    def _at(self, code: str, position: int) -> int:
        return struct.unpack_from(code, self._data, position)[0]

    def _field(self, table: int, slot: int) -> int:
        vtable = table - self._at("<i", table)
        entry = 4 + 2 * slot
        offset = self._at("<H", vtable + entry) if entry < self._at("<H", vtable) else 0
        return table + offset if offset else 0

    def has(self, table: int, slot: int) -> bool:
        return self._field(table, slot) != 0

    def child(self, table: int, slot: int) -> int:
        position = self._field(table, slot)
        return position + self._at("<I", position)

    def byte(self, table: int, slot: int) -> int:
        position = self._field(table, slot)
        return self._data[position] if position else 0

    def long(self, table: int, slot: int) -> int:
        position = self._field(table, slot)
        return self._at("<q", position) if position else 0

    def pairs(self, table: int, slot: int) -> list[int]:
        """Return a vector of two-number structs (FieldNode, Buffer), flat."""
        if not self.has(table, slot):
            return []
        vector = self.child(table, slot)
        return list(struct.unpack_from(f"<{2 * self._at('<I', vector)}q", self._data, vector + 4))
