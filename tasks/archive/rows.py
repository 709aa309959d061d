"""Conversion of entries to rows of an archive: one kind per frame, and one row for all other fields."""

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.archive.column_types import canonical
from tasks.base.ids import id_numbers, id_time
from tasks.codec.arrow_frames import read_table
from tasks.codec.foreign_frames import plain_columns
from tasks.codec.limits import DEFAULT_LIMITS
from tasks.codec.object_columns import is_nested, pack_objects
from tasks.codec.values import is_frame
from tasks.errors import EncodeError
from tasks.reservoir.entry import Entry

__all__ = ["Rows", "kind_folder", "rows_of"]

_TABULAR = (pd.DataFrame, pd.Series, pd.Index, np.ndarray)
# Types with an Arrow type that does not depend on the value. All others are stored as JSON text.
_TYPED = (bool, int, float, str, bytes, datetime, date, time, timedelta, np.generic, type(None))
_MAX_NAME_BYTES = 120
_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_RUN = 65_536  # rows that share one buffer of entry ids


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one kind from one entry.

    table    the columns `entry_id` and `entry_time`, followed by the rows' own columns
    """

    topic: str
    id: str
    kind: str
    table: pa.Table

    @property
    def order(self) -> tuple[int, int]:
        """The entry id as numbers, which sort in push order."""
        return id_numbers(self.id)

    @property
    def partition(self) -> Path:
        """The folder of these rows, relative to the dataset."""
        return kind_folder(self.topic, self.kind) / f"day={id_time(self.id):%Y-%m-%d}"


def rows_of(entry: Entry) -> list[Rows]:
    """Return the rows of an entry: of each frame, and of all other fields together.

    A frame's index becomes columns, unless it only numbers the rows. Duplicate names get a '_' at the end.

    raises    EncodeError: a frame that Parquet cannot hold, or an invalid entry id
    """
    if not _ID.fullmatch(entry.id):
        msg = f"topic {entry.topic!r}: expected an entry id of two numbers, got {entry.id[:60]!r}; it is in no file"
        raise EncodeError(msg)
    rest = {name: value for name, value in entry.items() if not _is_tabular(value)}
    kinds: dict[str, Any] = {name: value for name, value in entry.items() if name not in rest}
    if rest:
        # A frame's field may have the same name, so the rest may need another one.
        kinds[_free("+".join(sorted(rest)), kinds)] = rest
    return [Rows(entry.topic, entry.id, kind, _table(entry, kind, value)) for kind, value in kinds.items()]


def _is_tabular(value: Any) -> bool:
    return isinstance(value, _TABULAR) or is_frame(value)


def kind_folder(topic: str, kind: str) -> Path:
    """Return the folder of a kind, relative to the dataset."""
    return Path(f"topic={_quoted(topic)}", f"kind={_quoted(kind)}")


def _table(entry: Entry, kind: str, value: Any) -> pa.Table:
    try:
        columns = _row_columns(value) if isinstance(value, dict) else _frame_columns(value)
        arrays = {name: canonical(_array(values)) for name, values in columns.items()}
        n = len(next(iter(arrays.values())))
        named = {"entry_id": _repeated(entry.id, pa.string(), n)}
        named["entry_time"] = _repeated(id_time(entry.id), pa.timestamp("ms", "UTC"), n)
        for name, array in arrays.items():
            named[_free(name, named)] = array
        table = pa.table(named)
        _check_writable(table.schema)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        msg = (
            f"topic {entry.topic!r} entry {entry.id} field {kind!r}: expected a frame that Parquet can hold, "
            f"got one it cannot ({type(error).__name__}); it is in no file"
        )
        raise EncodeError(msg) from error
    return table


def _array(values: Any) -> pa.ChunkedArray:
    if isinstance(values, pa.ChunkedArray):
        return values
    if isinstance(values, pd.Series | pd.Index):
        values = _for_any_reader(values)
    array = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _for_any_reader(values: pd.Series | pd.Index) -> Any:
    """Return a column whose Arrow type every reader knows: periods and uuids as text, nested cells as the codec has them."""
    dtype: Any = values.dtype
    if isinstance(dtype, pd.CategoricalDtype) and isinstance(dtype.categories.dtype, pd.PeriodDtype | pd.IntervalDtype):
        return pd.Categorical(values).rename_categories(dtype.categories.astype(str))
    if isinstance(dtype, pd.PeriodDtype):
        return pa.array([None if value is pd.NaT else str(value) for value in values])
    if isinstance(dtype, pd.IntervalDtype):
        array: Any = values.array
        sides = [pa.array(side, from_pandas=True) for side in (array.left, array.right)]
        return pa.StructArray.from_arrays(sides, names=["left", "right"], mask=pa.array(np.asarray(array.isna())))
    return _objects_for_any_reader(values) if dtype.kind == "O" else values


def _objects_for_any_reader(values: pd.Series | pd.Index) -> Any:
    try:
        packed, word = pack_objects(values.to_numpy(dtype=object))
    except EncodeError:
        return values
    if word.startswith("object:UUID"):
        return pa.array([str(value) if isinstance(value, UUID) else None for value in values])
    return packed if is_nested(word) else values


def _repeated(value: Any, kind: pa.DataType, n: int) -> pa.ChunkedArray:
    """Return a column of one repeated value whose chunks share memory."""
    run = pa.repeat(pa.scalar(value, kind), min(n, _RUN))
    return pa.chunked_array([*[run] * (n // _RUN), run.slice(0, n % _RUN)], kind)


@lru_cache(maxsize=256)
def _check_writable(schema: pa.Schema) -> None:
    """Raise for one entry the error that would otherwise fail a whole file."""
    pq.write_table(schema.empty_table(), io.BytesIO())


def _frame_columns(value: Any) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    if is_frame(value) and not isinstance(value, pd.DataFrame):
        table = plain_columns(read_table(value, max_bytes=DEFAULT_LIMITS.max_decoded_bytes))
        for name, column in zip(table.column_names, table.columns, strict=True):
            columns[_free(name, columns)] = column
        return columns or {"rows": pa.nulls(len(table))}
    if isinstance(value, pd.Series | pd.Index):
        value = value.to_frame(name="value" if value.name is None else value.name)
    elif isinstance(value, np.ndarray):
        value = pd.DataFrame(value if value.ndim > 1 else {"value": value})
    frame: pd.DataFrame = value
    if not (isinstance(frame.index, pd.RangeIndex) and frame.index.equals(pd.RangeIndex(len(frame)))):
        for number, name in enumerate(frame.index.names):
            label = f"index{number or ''}" if name is None else str(name)
            columns[_free(label, columns)] = frame.index.get_level_values(number)
    for number, name in enumerate(frame.columns):
        columns[_free(str(name), columns)] = frame.iloc[:, number]
    return columns or {"rows": pa.nulls(len(frame))}


def _row_columns(fields: Mapping[str, Any]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for field, value in fields.items():
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                columns[_free(f"{field}.{key}", columns)] = [_cell(inner)]
        else:
            columns[_free(field, columns)] = [_cell(value)]
    return columns


def _cell(value: Any) -> Any:
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)  # Arrow's integers end there
    return value if isinstance(value, _TYPED) else json.dumps(value, default=str)


def _quoted(name: str) -> str:
    """Return a name quoted for a hive folder, or its hash if that is too long."""
    quoted = quote(name, safe="+ ")
    if len(quoted) <= _MAX_NAME_BYTES:
        return quoted
    return hashlib.sha256(name.encode()).hexdigest()


def _free(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "_"
    return name
