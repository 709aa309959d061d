"""The files of an archive: their places and names, their columns, and how they are written."""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from tasks.archive.column_types import Columns
from tasks.base.ids import id_numbers
from tasks.base.logs import get_logger
from tasks.base.plain_text import error_line

__all__ = [
    "COLUMNS",
    "OF_ALL",
    "Ids",
    "id_range",
    "is_damage",
    "kept_columns",
    "log_unreadable",
    "named",
    "parquet_options",
    "schemas_of",
    "with_one_dictionary",
]

logger = get_logger(__name__)

Ids = tuple[int, int]
"""An entry id as two numbers."""

FIRST_DAY = "day=0001-01-01"  # sorts before all others
COLUMNS = Path(FIRST_DAY, "columns.parquet")
"""The file with the columns of a kind, in its folder."""

OF_ALL = Path("topic=!columns", "kind=!columns")  # no topic or kind has this name: their '!' is written '%21'
"""The folder that has the columns of the whole dataset."""

_FILE = re.compile(r"([0-9]{1,20}-[0-9]{1,20})_([0-9]{1,20}-[0-9]{1,20})(?:_[0-9]+)?\.parquet")
_SMALL_DICTIONARY = 2**20  # bytes; above Parquet's default it would write each value in full


def id_range(path: Path) -> tuple[Ids, Ids]:
    """Return the first and the last entry id of a file, from its name.

    raises    ValueError: another name
    """
    if found := _FILE.fullmatch(path.name):
        return id_numbers(found[1]), id_numbers(found[2])
    msg = "expected a file name of its first and last entry id"
    raise ValueError(msg)


def named(first: str, last: str, number: int | None = None) -> str:
    """Return the name of a file with the rows of these entries.

    >>> named("1-0", "9-0"), named("1-0", "9-0", 3)
    ('1-0_9-0.parquet', '1-0_9-0_3.parquet')
    """
    return f"{first}_{last}.parquet" if number is None else f"{first}_{last}_{number}.parquet"


def is_damage(error: Exception) -> bool:
    """Return whether an error of reading a file comes from its content, and not from the disk. Arrow's errors have no number."""
    return getattr(error, "errno", None) is None


@lru_cache(maxsize=256)
def log_unreadable(path: Path, why: str) -> None:
    """Log once that a file cannot be read."""
    logger.warning(
        "%s cannot be read (%s); its entries may be written again to other files; move it out of the dataset",
        path,
        why,
    )


def kept_columns(folder: Path) -> Columns | None:
    """Return the columns that are stored for a kind, or for the whole dataset (`OF_ALL`); None if none are."""
    path = folder / COLUMNS
    try:
        status = path.stat()
        return Columns(_schema(path, status.st_mtime_ns, status.st_ino, status.st_size))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if not is_damage(error):
            raise
        log_unreadable(path, error_line(error))
        return None


@lru_cache(maxsize=1024)
def _schema(path: Path, *_: int) -> dict[str, pa.DataType]:
    schema = pq.read_schema(path)
    return dict(zip(schema.names, schema.types, strict=True))


def schemas_of(paths: Iterable[Path]) -> dict[Path, pa.Schema]:
    """Return the schemas of all readable files."""
    found: dict[Path, pa.Schema] = {}
    for path in paths:
        try:
            found[path] = pq.read_schema(path)
        except (OSError, ValueError) as error:
            if not is_damage(error):
                raise
            log_unreadable(path, error_line(error))
    return found


def with_one_dictionary(table: pa.Table) -> pa.Table:
    """Return a table with one dictionary for each column of categories: with a second, Parquet would write each value in full."""
    return table.unify_dictionaries() if any(map(types.is_dictionary, table.schema.types)) else table


def parquet_options(table: pa.Table) -> dict[str, Any]:
    """Return how to write a table of `with_one_dictionary`: compressed, and with its dictionaries as such."""
    largest = max(
        (
            column.chunk(0).dictionary.nbytes
            for column in table.columns
            if types.is_dictionary(column.type) and column.num_chunks
        ),
        default=0,
    )
    return {"compression": "zstd", "dictionary_pagesize_limit": max(_SMALL_DICTIONARY, 2 * largest)}
