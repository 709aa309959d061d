"""Estimate, from the headers of an Arrow IPC stream, the memory that reading it will take.

A stream of a few hundred bytes can claim gigabytes: by compressed or overlapping buffers, views that repeat one text,
types without bytes per row, and the Python objects that pandas makes of values.
"""

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyarrow as pa

from tasks.codec.arrow_ipc import check_type, flattened
from tasks.codec.json_text import container_weight
from tasks.codec.limits import Budget
from tasks.errors import EncodeError, PoisonEntryError

__all__ = ["Becomes", "weigh"]

_OBJECT_BYTES = 64  # a Python object and the reference to it: 57 bytes for a short str, 112 for a Decimal

# Bytes of the Python objects that `to_pandas` makes of one value, by type id. Types that stay numeric arrays are absent.
_OBJECT_COSTS = {
    pa.null().id: 8,
    pa.date32().id: 48,
    pa.date64().id: 48,
    pa.time32("s").id: 64,
    pa.time64("us").id: 64,
    pa.binary(1).id: 96,  # a uuid becomes its text
    **{pa.lib.ensure_type(kind).id: _OBJECT_BYTES for kind in ("string", "large_string", "binary", "large_binary")},
    **{kind.id: _OBJECT_BYTES for kind in (pa.string_view(), pa.binary_view())},
    **{kind(9, 2).id: 128 for kind in (pa.decimal32, pa.decimal64, pa.decimal128, pa.decimal256)},
    **{kind.id: 256 for kind in (pa.list_(pa.int8()), pa.large_list(pa.int8()), pa.list_(pa.int8(), 1))},
    **{kind.id: 256 for kind in (pa.map_(pa.int8(), pa.int8()), pa.struct([("a", pa.int8())]))},
}
_FIELD_COST = 128  # of a number or moment in a struct: an object of its own, and its place in a dict
_CATEGORY_COST = 128  # per category; its message does not show what it becomes
_INTEGERS = frozenset(pa.lib.ensure_type(f"{sign}int{bits}").id for sign in ("", "u") for bits in (8, 16, 32, 64))
_WITH_NULLS = {
    pa.bool_().id: (1, 8),
    **dict.fromkeys(_INTEGERS, (0, 8)),
    pa.dictionary(pa.int8(), pa.int8()).id: (8, 8),
}
_VIEW_IDS = frozenset({pa.string_view().id, pa.binary_view().id})
_TEXT_IDS = frozenset({pa.string().id, pa.large_string().id})
# Buffers per column, without those of a view's text; 2 for types that are absent here.
_BUFFERS = {
    pa.null().id: 0,
    pa.struct([]).id: 1,
    pa.list_(pa.int8(), 1).id: 1,
    **{kind.id: 3 for kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())},
}
_TEXT_BUFFERS = 3
_STORED = -1  # the claimed size of an uncompressed buffer among compressed ones
_CODECS = ("lz4", "zstd")  # by their numbers in a message


class Becomes(NamedTuple):
    """The memory that the decoded values of a column take besides their buffers.

    objects     0, or the minimum bytes of the Python object for each value
    beside      further bytes per value
    is_python   whether nested values become Python objects too, instead of arrays
    is_json     whether text is JSON that is decoded
    """

    objects: int = 0
    beside: int = 0
    is_python: bool = False
    is_json: bool = False


class _Node(NamedTuple):
    """One (possibly nested) column of a message: bytes per value besides its buffers, without and with nulls."""

    cost: int
    cost_with_nulls: int
    buffers: int
    is_view: bool
    is_str: bool
    is_json: bool = False


def _node(kind: pa.DataType, becomes: Becomes, *, in_struct: bool) -> _Node:
    number, cost = kind.id, becomes.beside
    if becomes.objects and (usual := _OBJECT_COSTS.get(number, _FIELD_COST if in_struct else 0)):
        cost += max(usual, becomes.objects)
    without, with_nulls = _WITH_NULLS.get(number, (0, 0))
    is_view = number in _VIEW_IDS
    return _Node(
        cost + without,
        cost + with_nulls,
        _BUFFERS.get(number, 2),
        is_view,
        bool(becomes.objects) and (number in _TEXT_IDS or is_view),
        becomes.is_json,
    )


def weigh(data: bytes, budget: Budget, *, becomes: Callable[[pa.Schema], Sequence[Becomes]]) -> pa.Schema:
    """Charge `budget` with the memory that reading `data` will take, from its headers alone; return its schema.

    becomes   returns for each field what its values will become
    raises    PoisonEntryError: too large, or unsafe to read; any exception of pyarrow: malformed
    source    Arrow columnar format, "Encapsulated message format" and "Recordbatch message"
    """
    messages = iter(pa.ipc.MessageReader.open_stream(data))
    first = next(messages, None)
    if first is None or first.type != "schema":
        msg = "expected an Arrow IPC stream that begins with its schema"
        raise PoisonEntryError(msg)
    # Before building the schema, because Python objects take some 30 times a field's bytes.
    budget.spend_decoded(32 * first.metadata.size)
    schema = pa.ipc.read_schema(first)
    kinds = [list(flattened(field.type)) for field in schema]
    budget.spend_columns(sum(map(len, kinds)))
    try:
        for field in schema:
            check_type(field.type, foreign=True)
    except EncodeError as error:
        raise PoisonEntryError(str(error)) from error
    nodes = [
        _node(kind, one, in_struct=in_struct or one.is_python)
        for column, one in zip(kinds, becomes(schema), strict=True)
        for kind, in_struct in column
    ]
    for message in messages:
        _weigh_batch(message, nodes, budget)
    return schema


def _weigh_batch(message: pa.ipc.Message, nodes: list[_Node], budget: Budget) -> None:
    if message.type not in ("record batch", "dictionary"):
        msg = f"expected record batches after the schema, got a message of type {message.type!r}"
        raise PoisonEntryError(msg)
    if message.metadata_version != pa.ipc.MetadataVersion.V5:  # V4 keeps its compression in custom metadata
        msg = "expected version 5 of Arrow's metadata (Arrow 1.0 and later), got an older one"
        raise PoisonEntryError(msg)
    header = _Flatbuffer(message.metadata.to_pybytes())
    batch = header.child(header.root, 2)
    is_dictionary = message.type == "dictionary"
    if is_dictionary:
        if header.byte(batch, 2):  # every delta copies the whole dictionary
            msg = "expected whole dictionaries, got a delta"
            raise PoisonEntryError(msg)
        batch = header.child(batch, 1)
    else:
        budget.spend_rows(header.long(batch, 0))
    found = header.pairs(batch, 1)
    lengths, nulls = found[::2], found[1::2]
    buffers = header.pairs(batch, 2)
    if len(lengths) != (1 if is_dictionary else len(nodes)) or min(lengths + nulls + buffers, default=0) < 0:
        msg = "expected one length for each column, got others"
        raise PoisonEntryError(msg)
    # Python and pandas keep 4 KiB per message and 256 bytes per column even if these are empty.
    budget.spend_decoded(4096 + 256 * len(lengths) + sum(lengths))
    views = header.longs(batch, 4)
    if is_dictionary:  # pyarrow does not show its number in the schema, so its type follows from its buffers
        is_text = bool(views) or len(buffers) == 2 * _TEXT_BUFFERS
        nodes = [_Node(_CATEGORY_COST, _CATEGORY_COST, len(buffers) // 2 - sum(views), bool(views), is_text)]
    budget.spend_decoded(
        sum(
            length * (node.cost_with_nulls if count else node.cost)
            for node, length, count in zip(nodes, lengths, nulls, strict=True)
        )
    )
    codec = _CODECS[header.byte(header.child(batch, 3), 0)] if header.has(batch, 3) else None
    body = _Body(message.body, buffers, codec)
    budget.spend_decoded(body.total if codec is None else sum(map(body.size, range(len(buffers) // 2))))
    if views or any(node.is_str for node in nodes):
        _weigh_text(nodes, lengths, views, body, budget)


def _weigh_text(nodes: list[_Node], lengths: list[int], views: list[int], body: "_Body", budget: Budget) -> None:
    """Charge the memory of text besides its buffers: the text that views show, 4 times for wide characters, and JSON."""
    left, at = iter(views), 0
    for node, length in zip(nodes, lengths, strict=True):
        if node.is_view:
            budget.spend_decoded(body.shown(at + 1, length) * (4 if node.is_str else 1))
        elif node.is_str and body.is_wide(at + 2):
            budget.spend_decoded(3 * body.size(at + 2))
        if node.is_json:
            budget.spend_decoded(container_weight(body.data(at + 2)))
        at += node.buffers + (next(left) if node.is_view else 0)


class _Body:
    """The buffers of one message.

    buffers   offset, size, offset, size, ...
    """

    def __init__(self, body: pa.Buffer, buffers: list[int], codec: str | None) -> None:
        self._body = body
        self._buffers = buffers
        self._codec = codec

    @property
    def total(self) -> int:
        """The bytes of all buffers as stored."""
        return sum(self._buffers[1::2])

    def size(self, number: int) -> int:
        """Return the size of a buffer after decompression."""
        length = self._buffers[2 * number + 1]
        if self._codec is None or not length:
            return length
        claimed = self._claimed(number)
        return length if claimed == _STORED else claimed if claimed >= 0 else 2**63

    def _claimed(self, number: int) -> int:
        """Return the decompressed size in the first 8 bytes of a compressed buffer."""
        (claimed,) = struct.unpack_from("<q", memoryview(self._body), self._buffers[2 * number])
        return claimed

    def is_wide(self, number: int) -> bool:
        """Return whether text may have non-ASCII characters; True for compressed text, which is unknown."""
        return self._codec is not None or not memoryview(self._slice(number)).tobytes().isascii()

    def shown(self, number: int, count: int) -> int:
        """Return the total length of the first views in a buffer; each view begins with its length."""
        lengths = memoryview(self.data(number))[: 16 * count].cast("i")[::4].tolist()
        if min(lengths, default=0) < 0:
            msg = "expected views of no less than 0 bytes, got others"
            raise PoisonEntryError(msg)
        return sum(lengths)

    def data(self, number: int) -> pa.Buffer:
        """Return a buffer after decompression; the budget has been charged with its size."""
        data = self._slice(number)
        if self._codec is not None and data.size:
            data = data.slice(8)
            if (claimed := self._claimed(number)) != _STORED:
                data = pa.decompress(data, decompressed_size=claimed, codec=self._codec)
        return data

    def _slice(self, number: int) -> pa.Buffer:
        offset, length = self._buffers[2 * number : 2 * number + 2]
        if offset + length > self._body.size:
            msg = "expected buffers within the message, got others"
            raise PoisonEntryError(msg)
        return self._body.slice(offset, length)


class _Flatbuffer:
    """A minimal reader of flatbuffers for the lengths in a message's header, which pyarrow has verified before."""

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

    def longs(self, table: int, slot: int) -> list[int]:
        """Return a vector of numbers."""
        if not self.has(table, slot):
            return []
        vector = self.child(table, slot)
        return list(struct.unpack_from(f"<{self._at('<I', vector)}q", self._data, vector + 4))
