"""Compaction of an archive: the small files of a day become few large ones, and readers see either the old or the new ones.

The new folder of a day is made beside the dataset, where no reader looks. It has the merged files, and the others as they are.
Then the two folders exchange their places in one step, and the old one is deleted. So the dataset is complete whenever the
process is killed; what it has left beside the dataset is deleted by the next compaction.

Merged files have names that no file of the day has had, so that a reader that has listed the old ones finds either these or none.
"""

import errno
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from stat import S_ISREG

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from tasks.archive.column_types import Columns
from tasks.archive.durable_files import exchange, link_or_copy, locked, make_folder, remove_folder, sync
from tasks.archive.layout import (
    Ids,
    id_range,
    is_damage,
    kept_columns,
    log_unreadable,
    named,
    parquet_options,
    with_one_dictionary,
)
from tasks.base.logs import get_logger
from tasks.base.plain_text import error_line
from tasks.errors import SettingsError

__all__ = ["Compacted", "compact"]

logger = get_logger(__name__)

_LOCK = ".compacting.lock"
_TARGET_BYTES = 128 * 2**20
_ROW_GROUP_BYTES = 64 * 2**20  # of rows in memory
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.EXDEV)


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction has done: in how many days of a topic and kind, and how many files of how many bytes became how many."""

    days: int = 0
    files: int = 0
    bytes: int = 0
    new_files: int = 0
    new_bytes: int = 0

    def __add__(self, other: "Compacted") -> "Compacted":
        return Compacted(
            self.days + other.days,
            self.files + other.files,
            self.bytes + other.bytes,
            self.new_files + other.new_files,
            self.new_bytes + other.new_bytes,
        )


@dataclass(frozen=True, slots=True)
class _File:
    """A file of a day: its size and what tells it from another one under its name."""

    size: int
    identity: tuple[int, int]


def compact(folder: str | Path, *, max_bytes: int = _TARGET_BYTES, before: date | None = None) -> Compacted:
    """Merge the small files of an archive, day by day, into files of up to `max_bytes`; return what was merged.

    A file is small below half of `max_bytes`. Files that cannot be read, or that hold other columns than the archive, stay as they
    are. Outlets may write at the same time. One compaction of a dataset works at a time.

    before    merge only days before this one, in UTC. Default: today, whose files are still written
    raises    FileNotFoundError: no such archive; SettingsError: the file system cannot exchange two folders; BlockingIOError: another
              compaction, or a writer, holds its lock for some seconds; OSError: the disk refuses. All rows are in the dataset, and another
              compaction goes on
    """
    folder = Path(folder).resolve(strict=True)
    before = before or datetime.now(UTC).date()
    beside = folder.with_name(f".{folder.name}.compacting")
    done = Compacted()
    with locked(folder, _LOCK):
        remove_folder(beside)
        try:
            for day in _days(folder, before):
                done += _compact_day(folder, day, beside, max_bytes)
        finally:
            remove_folder(beside)
    return done


def _days(folder: Path, before: date) -> Iterator[Path]:
    for path in sorted(folder.glob("topic=*/kind=*/day=????-??-??")):
        try:
            day = date.fromisoformat(path.name.removeprefix("day="))
        except ValueError:
            continue
        if date.min < day < before:  # the first of all days has the columns
            yield path


def _compact_day(folder: Path, day: Path, beside: Path, max_bytes: int) -> Compacted:
    columns = kept_columns(day.parent)
    if columns is None or not (found := _files(day)):  # of 0.1.0, until its first new write; or nothing to do
        return Compacted()
    groups = list(_groups(day, found, columns, max_bytes))
    if not groups:
        return Compacted()
    new = beside / day.name
    remove_folder(new)
    make_folder(new)
    try:
        merged = [_merge([day / name for name in group], columns, new) for group in groups]
    except (OSError, ValueError, LookupError, NotImplementedError) as error:
        if not is_damage(error):
            raise
        logger.warning("%s was not compacted: one of its files cannot be read (%s)", day, error_line(error))
        return Compacted()
    old = {name for group in groups for name in group}
    with locked(folder):
        now = _files(day)
        if now is None or any(now.get(name) != found[name] for name in old):
            logger.warning("%s was not compacted: its files changed during the compaction", day)
            return Compacted()
        for name in now.keys() - old:
            link_or_copy(day / name, new / name)
        new.chmod(day.stat().st_mode & 0o7777)
        sync(new)
        _exchange(new, day)
    remove_folder(new)  # it is the old one now
    return Compacted(
        1,
        len(old),
        sum(found[name].size for name in old),
        len(merged),
        sum((day / name).stat().st_size for name in merged),
    )


def _files(day: Path) -> dict[str, _File] | None:
    """Return the files of a day by name; None if the folder has anything else, which is not ours to move."""
    found: dict[str, _File] = {}
    for path in day.iterdir():
        if path.name.startswith(".") and path.name.endswith(".tmp"):  # left by a dead writer
            continue
        status = path.lstat()
        if not S_ISREG(status.st_mode):
            return None
        found[path.name] = _File(status.st_size, (status.st_ino, status.st_mtime_ns))
    return found


def _groups(day: Path, found: Mapping[str, _File], columns: Columns, max_bytes: int) -> Iterator[list[str]]:
    """Yield the names of small files that become one, in the order of their entries."""
    group: list[str] = []
    size = 0
    for _, name, is_mergeable in sorted(_candidates(day, found, columns, max_bytes)):
        if not is_mergeable or size + found[name].size > max_bytes:
            if len(group) > 1:
                yield group
            group, size = [], 0
        if is_mergeable:
            group.append(name)
            size += found[name].size
    if len(group) > 1:
        yield group


def _candidates(
    day: Path, found: Mapping[str, _File], columns: Columns, max_bytes: int
) -> Iterator[tuple[tuple[Ids, Ids], str, bool]]:
    """Yield the range and the name of each file with rows, and whether it may be merged."""
    for name, file in found.items():
        try:
            ids = id_range(day / name)
        except ValueError:
            continue
        yield ids, name, file.size < max_bytes // 2 and _fits(day / name, columns)


def _fits(path: Path, columns: Columns) -> bool:
    """Return whether a file can be read, and has only columns of the archive."""
    try:
        return all(columns.has(field) for field in pq.read_schema(path))
    except (OSError, ValueError) as error:
        if not is_damage(error):
            raise
        log_unreadable(path, error_line(error))
        return False


def _merge(paths: Iterable[Path], columns: Columns, folder: Path) -> str:
    """Write the rows of files to a new one, and return its name once it is on the disk."""
    paths = list(paths)
    ranges = [id_range(path) for path in paths]
    first, last = min(first for first, _ in ranges), max(last for _, last in ranges)
    name = named("{}-{}".format(*first), "{}-{}".format(*last), time.time_ns())
    names = {name for path in paths for name in pq.read_schema(path).names}
    known = [(name, kind) for name, kind in columns.types.items() if name in names and not types.is_null(kind)]
    writer: pq.ParquetWriter | None = None
    rows = 0
    try:
        for table in _row_groups(paths, pa.schema(known)):
            writer = writer or pq.ParquetWriter(folder / name, table.schema, **parquet_options(table))
            writer.write_table(table, row_group_size=max(table.num_rows, 1))
            rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    expected = sum(pq.read_metadata(path).num_rows for path in paths)
    if rows != expected:
        msg = f"expected {expected:,} rows, got {rows:,}"
        raise ValueError(msg)
    sync(folder / name)
    return name


def _row_groups(paths: Iterable[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of files as tables of at least `_ROW_GROUP_BYTES`, and a last one."""
    held: list[pa.Table] = []
    size = 0
    for path in paths:
        table = pq.ParquetFile(path).read()
        held.append(_fitted(table, schema))
        size += table.nbytes
        if size >= _ROW_GROUP_BYTES:
            yield with_one_dictionary(pa.concat_tables(held))
            held, size = [], 0
    if held:
        yield with_one_dictionary(pa.concat_tables(held))


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with all columns of a schema; missing ones are null."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _exchange(new: Path, day: Path) -> None:
    try:
        exchange(new, day)
    except OSError as error:
        if error.errno not in _CANNOT_EXCHANGE:
            raise
        msg = (
            f"expected a file system on which two folders can exchange their places, got one that cannot ({error.strerror}) for {day}; "
            "the archive stays as it is, with small files; move it to ext4, XFS, Btrfs or APFS to compact it"
        )
        raise SettingsError(msg) from error
