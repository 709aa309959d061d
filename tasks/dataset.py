"""Entries as rows of a Parquet dataset, and its files: written whole, once for each entry.

    <folder>/topic=market/kind=quotes/day=2026-11-23/<first id>_<last id>.parquet

An entry's frames are rows of a kind each, named after the field. Its other fields together are one row, of the
kind named after them all (`humidity+temperature`); a dict there becomes a column for each of its keys. All rows
begin with `entry_id` and `entry_time`. One file has one schema. Days are UTC's.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import dataset

from tasks.entry import Entry
from tasks.errors import EncodeError
from tasks.ids import id_numbers, id_time
from tasks.logs import get_logger
from tasks.plaintext import error_line

__all__ = ["Rows", "open_kind", "rows_of", "write"]

logger = get_logger(__name__)

_TABULAR = (pd.DataFrame, pd.Series, pd.Index, np.ndarray, pa.Table)
# What Arrow has a type for that does not depend on the value. Everything else is kept as JSON text.
_TYPED = (bool, int, float, str, bytes, datetime, date, time, timedelta, np.generic, type(None))
_MAX_NAME_BYTES = 120


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one kind that one entry gives."""

    topic: str
    id: str
    kind: str
    table: pa.Table

    @property
    def order(self) -> tuple[int, int]:
        """The entry id as numbers, which sort as the entries came."""
        return id_numbers(self.id)

    @property
    def partition(self) -> Path:
        """The folder they belong in, below the dataset's."""
        return _kind_folder(self.topic, self.kind) / f"day={id_time(self.id):%Y-%m-%d}"


def rows_of(entry: Entry) -> list[Rows]:
    """Return an entry's rows: of each frame's kind, and of that of the other fields together.

    A frame's index becomes columns, unless it only counts the rows. Names that are taken get a '_' at the end.

    raises    EncodeError: a frame that Parquet cannot hold
    """
    rest = {name: value for name, value in entry.items() if not isinstance(value, _TABULAR)}
    kinds = {name: value for name, value in entry.items() if name not in rest}
    tables = {kind: _frame_columns(value) for kind, value in kinds.items()}
    if rest:
        # A frame's field may have the same name: the kind of the rest must be another.
        tables[_free("+".join(sorted(rest)), tables)] = _row_columns(rest)
    return [Rows(entry.topic, entry.id, kind, _table(entry, kind, columns)) for kind, columns in tables.items()]


def write(folder: Path, rows: Iterable[Rows]) -> list[Path]:
    """Write rows to new files and return them, once they are on the disk for good.

    All files or an OSError; those written until then stay. An entry that is on the disk already is left out,
    so the same rows can be written again, in whatever company: each entry is in the dataset once. A file that
    cannot be read as Parquet counts for nothing; it is named in the log, once.
    """
    written = []
    by_partition: dict[Path, dict[tuple[int, int], Rows]] = {}
    for one in rows:
        by_partition.setdefault(folder / one.partition, {})[one.order] = one
    for partition, members in by_partition.items():
        present = _ids_on_disk(partition, min(members), max(members))
        new = [members[order] for order in sorted(members) if members[order].id not in present]
        for same in _by_schema(new):
            path = partition / f"{same[0].id}_{same[-1].id}.parquet"
            _write_file(path, pa.concat_tables([one.table for one in same], promote_options="default"))
            written.append(path)
    return written


def open_kind(folder: str | Path, topic: str, kind: str) -> dataset.Dataset:
    """Return all rows of one kind as a dataset, with `day` and the columns that any of its files has.

    raises    FileNotFoundError: there are none
    """
    path = Path(folder) / _kind_folder(topic, kind)
    found = dataset.dataset(path, format="parquet", partitioning="hive")
    schemas = [fragment.physical_schema for fragment in found.get_fragments()]
    schema = pa.unify_schemas([*schemas, pa.schema({"day": pa.string()})], promote_options="permissive")
    return dataset.dataset(path, schema=schema, format="parquet", partitioning="hive")


def _table(entry: Entry, kind: str, columns: Mapping[str, Any]) -> pa.Table:
    try:
        arrays = {name: _array(values) for name, values in columns.items()}
        n = len(next(iter(arrays.values())))
        time_ = pa.scalar(entry.time, pa.timestamp("ms", "UTC"))
        named = {"entry_id": pa.repeat(entry.id, n), "entry_time": pa.repeat(time_, n)}
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


def _array(values: Any) -> pa.Array | pa.ChunkedArray:
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, from_pandas=True)
    # The dictionary of a category is another in each frame; Parquet makes its own.
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array


@lru_cache(maxsize=256)
def _check_writable(schema: pa.Schema) -> None:
    """Raise now, where one entry fails, what would be raised later, where a whole file of them did."""
    pq.write_table(schema.empty_table(), io.BytesIO())


def _frame_columns(value: Any) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    if isinstance(value, pa.Table):
        for name, column in zip(value.column_names, value.columns, strict=True):
            columns[_free(name, columns)] = column
        return columns or {"rows": pa.nulls(len(value))}
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


def _by_schema(rows: Iterable[Rows]) -> Iterator[list[Rows]]:
    """Group rows that make one table as they are: the same columns and types, or nothing in a column at all."""
    groups: list[tuple[pa.Schema, list[Rows]]] = []
    for one in rows:
        for number, (schema, members) in enumerate(groups):
            if schema.names != one.table.schema.names:
                continue
            try:
                unified = pa.unify_schemas([schema, one.table.schema])
            except pa.ArrowException:
                continue
            groups[number] = (unified, [*members, one])
            break
        else:
            groups.append((one.table.schema, [one]))
    return (members for _, members in groups)


def _ids_on_disk(partition: Path, first: tuple[int, int], last: tuple[int, int]) -> set[str]:
    """Return the ids in the files whose ranges meet this one: files of this group's, written before a crash."""
    found: set[str] = set()
    for path in partition.glob("[0-9]*.parquet"):
        try:
            file_first, _, file_last = path.stem.partition("_")
            if id_numbers(file_first) <= last and id_numbers(file_last) >= first:
                found.update(pq.ParquetFile(path).read(columns=["entry_id"])["entry_id"].unique().to_pylist())
        except (OSError, ValueError, LookupError, NotImplementedError) as error:  # Arrow's are some of these
            if getattr(error, "errno", None) is not None:  # the disk's, not the file's
                raise
            _say_unreadable(path, error_line(error))
    return found


@lru_cache(maxsize=256)
def _say_unreadable(path: Path, why: str) -> None:
    logger.warning(
        "%s cannot be read (%s); entries are written beside it, whether or not it has them; take it out of the dataset",
        path,
        why,
    )


def _write_file(path: Path, table: pa.Table) -> None:
    """Write a file that is there whole or not at all, whatever happens, and stays once this has returned."""
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.tmp")  # readers of datasets pass over names that begin with a dot
    with temporary.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Make the names in a folder last: fsync of a file does not do it for its name (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _kind_folder(topic: str, kind: str) -> Path:
    return Path(f"topic={_quoted(topic)}", f"kind={_quoted(kind)}")


def _quoted(name: str) -> str:
    """Return a name as a folder can have it and hive readers understand it; too long a one as a hash of it."""
    quoted = quote(name, safe="+ ")
    if len(quoted) <= _MAX_NAME_BYTES:
        return quoted
    return hashlib.sha256(name.encode()).hexdigest()


def _free(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "_"
    return name
