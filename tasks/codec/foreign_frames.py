"""Arrow IPC streams of other libraries and programs, as pandas DataFrames."""

import re
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from tasks.codec.arrow_ipc import flattened, storage
from tasks.codec.json_text import from_json, to_json
from tasks.errors import PoisonEntryError

__all__ = ["foreign_frame", "plain_columns"]

_EXACT = 2**53  # above it, floats leave out whole numbers
_NO_PANDAS = (
    "expected a frame whose values pandas can hold, got one it would change; read the topic with frames='arrow'"
)
_PANDAS = b"pandas"
_ARROW_DTYPE = "[pyarrow]"
_PLAIN_DTYPES = re.compile(
    r"object|str|string(\[(python|pyarrow)\])?|bool|boolean|category"
    r"|[Uu]?[Ii]nt(8|16|32|64)|[Ff]loat(16|32|64)"
    r"|(datetime64|timedelta64)(\[(s|ms|us|ns)(, [\w/+:-]{1,64})?\])?"
)


def foreign_frame(table: pa.Table) -> pd.DataFrame:
    """Return a table without a layout as a frame, with the index and the pyarrow dtypes that pandas' own metadata names.

    Views become text and bytes, uuids text, and other extension types the values in which they are stored. Whole numbers
    beside nulls become floats, as pandas reads Arrow, unless a float would change them: then the column is Int64.

    raises    PoisonEntryError: a value that pandas would change, or metadata with unusual dtypes; one like 'U500000000'
              would take 2 GB a label
    """
    table = plain_columns(table)
    try:
        frame, index = _as_pandas(table)
    except pa.ArrowInvalid as error:
        raise PoisonEntryError(_NO_PANDAS) from error
    data = [n for n, name in enumerate(table.column_names) if name not in index]
    for position, n in enumerate(data):
        dtype = frame.dtypes.iloc[position]
        exact = None if isinstance(dtype, pd.ArrowDtype) else _exact(table.column(n), dtype)
        if exact is not None:
            frame.isetitem(position, exact)
    return frame


def _exact(column: pa.ChunkedArray, dtype: Any) -> Any:
    """Return the values of a column in which `to_pandas` may have made floats of whole numbers; None if it has not."""
    kind = column.type
    if types.is_integer(kind):
        if dtype == np.float64 and _is_beyond_floats(column):
            return pd.array(column.to_pylist(), dtype="UInt64" if types.is_uint64(kind) else "Int64")
        return None
    if not types.is_nested(kind):
        return None
    inner = [one for one, _ in flattened(kind)]
    if not any(map(types.is_integer, inner)):
        return None
    if any(types.is_struct(one) or types.is_map(one) for one in inner):
        values = np.empty(len(column), dtype=object)
        values[:] = column.to_pylist()
        return values
    leaves = column
    while types.is_nested(leaves.type):
        leaves = pa.chunked_array([chunk.flatten() for chunk in leaves.chunks], leaves.type.value_type)
    if leaves.null_count and _is_beyond_floats(leaves):
        raise PoisonEntryError(_NO_PANDAS)
    return None


def _is_beyond_floats(column: pa.ChunkedArray) -> bool:
    least, most = pc.min_max(column).as_py().values()
    return least is not None and max(-least, most) > _EXACT


def _as_pandas(table: pa.Table) -> tuple[pd.DataFrame, Sequence[Any]]:
    """Return a table as a frame, and which columns became its index."""
    text = (table.schema.metadata or {}).get(_PANDAS)
    if text is None:
        return table.to_pandas(ignore_metadata=True, use_threads=False), ()
    hints = from_json(text.decode())
    backed: set[str] = set()
    for column in [*hints.get("columns", []), *hints.get("column_indexes", [])]:
        if column["numpy_type"].endswith(_ARROW_DTYPE) and column["numpy_type"] != f"string{_ARROW_DTYPE}":
            backed.add(column["field_name"])
            column["numpy_type"] = "object"  # the Arrow type is the dtype
        elif not _PLAIN_DTYPES.fullmatch(column["numpy_type"]):
            msg = "expected plain dtypes in the metadata of pandas, got another"
            raise PoisonEntryError(msg)
    index = hints["index_columns"]
    if not backed:
        return table.to_pandas(use_threads=False), index
    frame = table.replace_schema_metadata({_PANDAS: to_json(hints, "hints")}).to_pandas(use_threads=False)
    return _with_arrow_dtypes(frame, table, index, backed), index


def _with_arrow_dtypes(frame: pd.DataFrame, table: pa.Table, index: Sequence[Any], backed: set[str]) -> pd.DataFrame:
    names = [name for name in table.column_names if name not in index]
    for position, name in enumerate(names):
        if name in backed:
            frame.isetitem(position, pd.arrays.ArrowExtensionArray(table[name]))
    levels = [name if name in table.column_names else None for name in index if isinstance(name, str)]
    if backed.intersection(filter(None, levels)):
        arrays = [
            pd.arrays.ArrowExtensionArray(table[name]) if name in backed else frame.index.get_level_values(position)
            for position, name in enumerate(levels)
        ]
        if len(arrays) == 1:
            frame.index = pd.Index(arrays[0], name=frame.index.name)
        else:
            frame.index = pd.MultiIndex.from_arrays(arrays, names=frame.index.names)
    return frame


def plain_columns(table: pa.Table) -> pa.Table:
    """Return a table without views and extension types: text, bytes, text of uuids, and what other extensions store."""
    for position, field in enumerate(table.schema):
        readable = _readable(field.type)
        if field.type != readable:
            column = _converted(table.column(position), readable)
            table = table.set_column(position, field.with_type(column.type), column)
    return table


def _readable(kind: pa.DataType) -> pa.DataType:
    """Return the type as which pandas reads values: no view, and no extension type."""
    kind = storage(kind)
    if types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _readable(kind.value_type), ordered=kind.ordered)
    if types.is_map(kind):
        return pa.map_(_readable(kind.key_type), _readable(kind.item_type))
    if types.is_struct(kind):
        return pa.struct([field.with_type(_readable(field.type)) for field in kind])
    if types.is_nested(kind):
        value = _readable(kind.value_type)
        return kind if value == kind.value_type else pa.large_list(value)
    return {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(kind, kind)


def _converted(column: pa.ChunkedArray, readable: pa.DataType) -> pa.ChunkedArray:
    if str(column.type) == "extension<arrow.uuid>":
        chunks = [
            [None if item is None else str(uuid.UUID(bytes=item)) for item in chunk.storage.to_pylist()]
            for chunk in column.chunks
        ]
        return pa.chunked_array(chunks, pa.large_string())
    if isinstance(column.type, pa.BaseExtensionType):
        stored = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
        return _converted(stored, readable)
    if types.is_dictionary(readable):
        chunks = [
            pa.DictionaryArray.from_arrays(
                chunk.indices, chunk.dictionary.cast(readable.value_type), ordered=readable.ordered
            )
            for chunk in column.chunks
        ]
        return pa.chunked_array(chunks, readable)
    return column.cast(readable)
