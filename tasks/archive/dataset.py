"""A Parquet dataset of entries' rows: files written whole, each row once, all of them readable together.

    <folder>/topic=market/kind=quotes/day=2026-11-23/<first id>_<last id>.parquet
    <folder>/topic=market/kind=quotes/day=0001-01-01/columns.parquet
    <folder>/topic=!columns/kind=!columns/day=0001-01-01/columns.parquet

An entry's frames are rows of a kind each, named after the field. Its other fields together are one row, of the
kind named after them all (`humidity+temperature`); a dict there becomes a column for each of its keys. All rows
begin with `entry_id` and `entry_time`. Days are UTC's.

A column name has one type in all files (`tasks.archive.column_types`). The files `columns.parquet` have no rows. They hold
the columns of a kind, or of the whole dataset, and sort first, where readers look for the columns of all files.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import dataset, types

from tasks.archive.column_types import Columns
from tasks.archive.durable_files import locked, make_folder, replace, write_new
from tasks.archive.rows import Rows, kind_folder, rows_of
from tasks.base.ids import id_numbers
from tasks.base.logs import get_logger
from tasks.base.plain_text import error_line

__all__ = ["Rows", "check", "open_archive", "open_kind", "rows_of", "write"]

logger = get_logger(__name__)

_FIRST_DAY = "day=0001-01-01"  # sorts before all others
_COLUMNS = Path(_FIRST_DAY, "columns.parquet")
_OF_ALL = Path("topic=!columns", "kind=!columns")  # no topic or kind is named so: their '!' is written '%21'
_FILE = re.compile(r"([0-9]{1,20}-[0-9]{1,20})_([0-9]{1,20}-[0-9]{1,20})(?:_[0-9]+)?\.parquet")
_SMALL_DICTIONARY = 2**20  # bytes; Parquet's own bound, beyond which it would write each value out


def write(folder: Path, rows: Iterable[Rows]) -> list[Path]:
    """Write rows to new files and return them, once they are on the disk for good.

    All files or an OSError; those written until then stay. Rows of an entry that has some on the disk already are
    left out, and no file is ever replaced, so the same rows can be written again, in whatever company: each is in
    the dataset once. Writers of one dataset wait for each other. A file that cannot be read as Parquet counts for
    nothing; it is named in the log, once.

    raises    OSError: the disk refuses, or another writer takes longer than some seconds; else what `check` raises
    """
    rows = list(rows)
    if not rows:
        return []
    make_folder(folder)
    with locked(folder):
        columns = _columns_of(folder)
        kinds = {part: _columns_of_kind(folder / part, columns) for part in {one.partition.parent for one in rows}}
        # All in memory before any of it is on the disk: what raises here is the fault of rows and not of a disk.
        files = [(path, _parquet(table)) for path, table in _files(folder, rows, columns, kinds)]
        for part, known in kinds.items():
            _keep(folder / part, known)
        _keep(folder / _OF_ALL, columns)
        return [write_new(path, data) for path, data in files]


def check(folder: Path, rows: Iterable[Rows]) -> None:
    """Raise what `write` would raise of these rows, without a disk."""
    columns = Columns(_columns_of(folder).types)
    for one in rows:
        _parquet(columns.fit(one.table))


def open_kind(folder: str | Path, topic: str, kind: str) -> dataset.Dataset:
    """Return all rows of one kind as a dataset, with `day` and the columns that any of its files has.

    raises    FileNotFoundError: there are none
    """
    return _open(Path(folder) / kind_folder(topic, kind), {"day": pa.string()})


def open_archive(folder: str | Path) -> dataset.Dataset:
    """Return all rows of an archive as a dataset, with `topic`, `kind`, `day` and the columns that any file has.

    raises    FileNotFoundError: there are none
    """
    return _open(Path(folder), dict.fromkeys(("topic", "kind", "day"), pa.string()), _OF_ALL)


def _open(path: Path, partitions: dict[str, pa.DataType], part: Path = Path()) -> dataset.Dataset:
    if not (columns := _kept(path / part)):  # written by 0.1.0, which kept none
        found = dataset.dataset(path, format="parquet", partitioning="hive")
        columns = Columns()
        columns.learn((one.physical_schema for one in found.get_fragments()), as_they_are=True)
    schema = pa.schema([*columns.schema, *partitions.items()])
    return dataset.dataset(path, schema=schema, format="parquet", partitioning="hive")


# --- rows -----------------------------------------------------------------------------------------------


def _files(
    folder: Path, rows: list[Rows], columns: Columns, kinds: dict[Path, Columns]
) -> Iterator[tuple[Path, pa.Table]]:
    """Yield a path and a table for each file to be written, and add to the columns what they have."""
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
            yield folder / partition / f"{new[0].id}_{new[-1].id}.parquet", table


def _ids_on_disk(partition: Path, first: tuple[int, int], last: tuple[int, int]) -> set[str]:
    """Return the ids in the files whose ranges meet this one: files of this group's, written before a crash."""
    found: set[str] = set()
    for path in partition.glob("[0-9]*.parquet"):
        try:
            file_first, file_last = _range(path)
            if file_first <= last and file_last >= first:
                found.update(pq.ParquetFile(path).read(columns=["entry_id"])["entry_id"].unique().to_pylist())
        except (OSError, ValueError, LookupError, NotImplementedError) as error:  # Arrow's are some of these
            if getattr(error, "errno", None) is not None:  # the disk's, not the file's
                raise
            _say_unreadable(path, error_line(error))
    return found


def _range(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    if found := _FILE.fullmatch(path.name):
        return id_numbers(found[1]), id_numbers(found[2])
    msg = "expected a name of its first and last entry id"
    raise ValueError(msg)


@lru_cache(maxsize=256)
def _say_unreadable(path: Path, why: str) -> None:
    logger.warning(
        "%s cannot be read (%s); entries are written beside it, whether or not it has them; take it out of the dataset",
        path,
        why,
    )


# --- columns --------------------------------------------------------------------------------------------


def _columns_of(folder: Path) -> Columns:
    """Return the columns of a dataset; of one that keeps none, having found them in its files."""
    return _kept(folder / _OF_ALL) or _found(folder)


def _columns_of_kind(folder: Path, columns: Columns) -> Columns:
    if known := _kept(folder):
        return known
    known = Columns()
    for schema in _schemas(folder.glob("day=*/[0-9]*.parquet")).values():
        known.keep(columns, columns.types.keys() & set(schema.names))
    return known


def _kept(folder: Path) -> Columns | None:
    path = folder / _COLUMNS
    try:
        status = path.stat()
        return Columns(_schema(path, status.st_mtime_ns, status.st_ino, status.st_size))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        _say_unreadable(path, error_line(error))
        return None


@lru_cache(maxsize=1024)
def _schema(path: Path, *_: int) -> dict[str, pa.DataType]:
    schema = pq.read_schema(path)
    return dict(zip(schema.names, schema.types, strict=True))


def _keep(folder: Path, columns: Columns) -> None:
    if columns.is_changed:
        make_folder(folder / _FIRST_DAY)
        replace(folder / _COLUMNS, _parquet(columns.schema.empty_table()))


def _found(folder: Path) -> Columns:
    """Return the columns of the files that 0.1.0 wrote, and rewrite those that no reader could read with the others."""
    schemas = _schemas(sorted(folder.glob("topic=*/kind=*/day=*/[0-9]*.parquet")))
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


def _schemas(paths: Iterable[Path]) -> dict[Path, pa.Schema]:
    """Return the schemas of files, but of those that cannot be read."""
    found: dict[Path, pa.Schema] = {}
    for path in paths:
        try:
            found[path] = pq.read_schema(path)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) is not None:
                raise
            _say_unreadable(path, error_line(error))
    return found


# --- files ----------------------------------------------------------------------------------------------


def _parquet(table: pa.Table) -> pa.Buffer:
    """Return a table as a Parquet file."""
    largest = 0
    if any(map(types.is_dictionary, table.schema.types)):
        table = table.unify_dictionaries()  # a second dictionary, or one too large, and each value would be written out
        largest = max(
            column.chunk(0).dictionary.nbytes
            for column in table.columns
            if types.is_dictionary(column.type) and column.num_chunks
        )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", dictionary_pagesize_limit=max(_SMALL_DICTIONARY, 2 * largest))
    return sink.getvalue()
