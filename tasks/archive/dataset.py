"""A Parquet dataset of entries: files are written whole, each row once, and can all be read together.

    <folder>/topic=market/kind=quotes/day=2026-11-23/<first id>_<last id>.parquet
    <folder>/topic=market/kind=quotes/day=0001-01-01/columns.parquet
    <folder>/topic=!columns/kind=!columns/day=0001-01-01/columns.parquet

The rows of a frame form a kind, named after its field. All other fields of an entry form one row of a kind named after
all of them (`humidity+temperature`); a dict there becomes one column per key. All rows begin with `entry_id` and
`entry_time`. Days are in UTC.

A column name has one type in all files (`tasks.archive.column_types`). The files `columns.parquet` have no rows. They hold
the columns of a kind or of the whole dataset, and sort first, because readers take the columns from the first file.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import dataset

from tasks.archive.column_types import Columns
from tasks.archive.durable_files import locked, make_folder, replace, write_new
from tasks.archive.layout import (
    COLUMNS,
    OF_ALL,
    Ids,
    id_range,
    is_damage,
    kept_columns,
    log_unreadable,
    named,
    parquet_options,
    schemas_of,
    with_one_dictionary,
)
from tasks.archive.rows import Rows, kind_folder, rows_of
from tasks.base.logs import get_logger
from tasks.base.plain_text import error_line

__all__ = ["Rows", "check", "open_archive", "open_kind", "rows_of", "write"]

logger = get_logger(__name__)


def write(folder: Path, rows: Iterable[Rows]) -> list[Path]:
    """Write rows to new files, and return the files once they are durable on the disk.

    After an OSError, the files written until then stay. Rows of an entry that already has rows on the disk are left out,
    and no file is replaced. So the same rows can be written again, together with any others: each is in the dataset
    once. Writers of one dataset take turns. A file that is no valid Parquet is ignored and logged once.

    raises    OSError: the disk refuses, or another writer holds the lock for some seconds; also as `check`
    """
    rows = list(rows)
    if not rows:
        return []
    make_folder(folder)
    with locked(folder):
        columns = _columns_of(folder)
        kinds = {part: _columns_of_kind(folder / part, columns) for part in {one.partition.parent for one in rows}}
        # Encode all files before writing the first: an error here comes from the rows and not from the disk.
        files = [(path, _parquet(table)) for path, table in _files(folder, rows, columns, kinds)]
        for part, known in kinds.items():
            _keep(folder / part, known)
        _keep(folder / OF_ALL, columns)
        return [write_new(path, data) for path, data in files]


def check(folder: Path, rows: Iterable[Rows]) -> None:
    """Raise the error that `write` would raise for these rows, without writing."""
    columns = Columns(_columns_of(folder).types)
    for one in rows:
        _parquet(columns.fit(one.table))


def open_kind(folder: str | Path, topic: str, kind: str) -> dataset.Dataset:
    """Return all rows of one kind as a dataset, with `day` and the columns that any of its files has.

    raises    FileNotFoundError: no such kind
    """
    return _open(Path(folder) / kind_folder(topic, kind), {"day": pa.string()})


def open_archive(folder: str | Path) -> dataset.Dataset:
    """Return all rows of an archive as a dataset, with `topic`, `kind`, `day` and the columns that any file has.

    raises    FileNotFoundError: no such archive
    """
    return _open(Path(folder), dict.fromkeys(("topic", "kind", "day"), pa.string()), OF_ALL)


def _open(path: Path, partitions: dict[str, pa.DataType], part: Path = Path()) -> dataset.Dataset:
    if not (columns := kept_columns(path / part)):  # written by 0.1.0, which stored no columns
        found = dataset.dataset(path, format="parquet", partitioning="hive")
        columns = Columns()
        columns.learn((one.physical_schema for one in found.get_fragments()), as_they_are=True)
    schema = pa.schema([*columns.schema, *partitions.items()])
    return dataset.dataset(path, schema=schema, format="parquet", partitioning="hive")


# --- rows -----------------------------------------------------------------------------------------------


def _files(
    folder: Path, rows: list[Rows], columns: Columns, kinds: dict[Path, Columns]
) -> Iterator[tuple[Path, pa.Table]]:
    """Yield the path and table of each file to write, and add their columns to `columns` and `kinds`."""
    columns.learn(one.table.schema for one in rows)
    by_partition: dict[Path, dict[tuple[int, int], Rows]] = {}
    for one in rows:
        by_partition.setdefault(one.partition, {})[one.order] = one
    for partition, members in by_partition.items():
        ordered = [members[order] for order in sorted(members)]
        full = [one for one in ordered if one.table.num_rows]
        present = _ids_on_disk(folder / partition, full[0].order, full[-1].order) if full else set()
        new = [one for one in full if one.id not in present]
        names: set[str] = set()
        table = columns.fit_all([one.table for one in new or ordered[:1]], names)
        for one in ordered:
            if not one.table.num_rows:
                columns.fit(one.table, names)
        kinds[partition.parent].keep(columns, names)
        if new:
            yield folder / partition / named(new[0].id, new[-1].id), table


def _ids_on_disk(partition: Path, first: Ids, last: Ids) -> set[str]:
    """Return the entry ids in all files whose ranges overlap `first` to `last`, such as those written before a crash."""
    found: set[str] = set()
    for path in partition.glob("[0-9]*.parquet"):
        try:
            file_first, file_last = id_range(path)
            if file_first <= last and file_last >= first:
                found.update(pq.ParquetFile(path).read(columns=["entry_id"])["entry_id"].unique().to_pylist())
        except (OSError, ValueError, LookupError, NotImplementedError) as error:  # Arrow's are some of these
            if not is_damage(error):
                raise
            log_unreadable(path, error_line(error))
    return found


# --- columns --------------------------------------------------------------------------------------------


def _columns_of(folder: Path) -> Columns:
    """Return the columns of a dataset, stored or, in a dataset of 0.1.0, found in its files."""
    return kept_columns(folder / OF_ALL) or _found(folder)


def _columns_of_kind(folder: Path, columns: Columns) -> Columns:
    if known := kept_columns(folder):
        return known
    known = Columns()
    for schema in schemas_of(folder.glob("day=*/[0-9]*.parquet")).values():
        known.keep(columns, columns.types.keys() & set(schema.names))
    return known


def _keep(folder: Path, columns: Columns) -> None:
    if columns.is_changed:
        make_folder((folder / COLUMNS).parent)
        replace(folder / COLUMNS, _parquet(columns.schema.empty_table()))


def _found(folder: Path) -> Columns:
    """Return the columns of all files of 0.1.0, and rewrite the files that could not be read with the others."""
    schemas = schemas_of(sorted(folder.glob("topic=*/kind=*/day=*/[0-9]*.parquet")))
    columns = Columns()
    columns.learn(schemas.values(), as_they_are=True)
    kinds: dict[Path, Columns] = {}
    rewritten = 0
    for path, schema in schemas.items():
        known = kinds.setdefault(path.parent.parent, Columns())
        names = set(schema.names)
        if not all(map(columns.has, schema)):
            names = set()
            table = pq.ParquetFile(path).read()
            replace(path, _parquet(columns.fit(table, names)))
            rewritten += 1
        known.keep(columns, names)
    for kind, known in kinds.items():
        _keep(kind, known)
    if rewritten:
        logger.warning("%s: %d files rewritten, so that all files have one type for each column", folder, rewritten)
    return columns


# --- files ----------------------------------------------------------------------------------------------


def _parquet(table: pa.Table) -> pa.Buffer:
    """Return a table as a Parquet file."""
    table = with_one_dictionary(table)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **parquet_options(table))
    return sink.getvalue()
