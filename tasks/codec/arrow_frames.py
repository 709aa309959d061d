"""Frames of any library that speaks Arrow's PyCapsule protocol: polars, DuckDB, arro3, pyarrow itself.

Encoding imports none of these libraries. Their frames become plain Arrow IPC streams without a layout, and are decoded to
the type that the reader chose: a pandas DataFrame, a pyarrow Table or a polars DataFrame.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from tasks.codec.arrow_ipc import check_type
from tasks.codec.layouts import KEY, Layout
from tasks.codec.limits import Budget
from tasks.codec.pandas_frames import short_name
from tasks.codec.pandas_index import index_width
from tasks.errors import EncodeError, PoisonEntryError

__all__ = ["handed_over", "pack_table", "read_table", "unpack_table"]

_NUL = "\0"


def pack_table(table: pa.Table) -> tuple[pa.Table, Layout]:
    """Return a pyarrow Table and its layout, by which it comes back as a Table.

    raises    EncodeError: a type that no outlet reads, or metadata in the place of ours
    """
    _check_columns(table.schema)
    return table, {"kind": "Table", "rows": table.num_rows, "bare": table.schema.metadata is None}


def unpack_table(table: pa.Table, layout: Layout, _: Budget) -> pa.Table:
    """Return the table that `pack_table` was given."""
    return _without_layout(table, is_bare=layout["bare"])


def read_table(frame: Any, *, max_bytes: int) -> pa.Table:
    """Read the table that an object exports through `__arrow_c_stream__`, once.

    max_bytes   stop reading above this, before a query's whole result is in memory
    raises      EncodeError: no stream of columns, a type that no outlet reads, or too large
    """
    got = type(frame).__name__
    columns = getattr(frame, "columns", ())
    if isinstance(columns, list) and any(_NUL in name for name in columns if isinstance(name, str)):
        # The protocol's names are C strings; polars 2.1 ends the process on one that is none.
        msg = f"expected column names without the character NUL, got one with it in a {got}; use rename()"
        raise EncodeError(msg)
    try:
        reader = pa.RecordBatchReader.from_stream(frame)
    except (pa.ArrowException, ValueError, TypeError) as error:
        msg = (
            f"expected a frame whose columns pyarrow can read, got a {got} with others or without columns; "
            "use to_frame() of a single column, or cast what is not in docs/entries.md"
        )
        raise EncodeError(msg) from error
    _check_columns(reader.schema)
    batches, size = [], 0
    for batch in reader:
        batches.append(batch)
        size += batch.nbytes
        if size > max_bytes:
            msg = f"expected a frame of at most {max_bytes:,} bytes, got a {got} of more"
            raise EncodeError(msg)
    return pa.Table.from_batches(batches, reader.schema)


def _check_columns(schema: pa.Schema) -> None:
    for field in schema:
        try:
            check_type(field.type, foreign=True)
        except EncodeError as error:
            msg = f"column {short_name(field.name)}: {error}; use cast()"
            raise EncodeError(msg) from error
    if KEY in (schema.metadata or {}):
        msg = "expected schema metadata without the key 'sluice', got it; use replace_schema_metadata()"
        raise EncodeError(msg)


def handed_over(table: pa.Table, layout: Layout | None, frames: str) -> Any:
    """Return a frame that was read as pyarrow's Table or polars' DataFrame.

    A pandas DataFrame gives its columns as Arrow holds them, then its index' levels; a RangeIndex is left out.

    raises    PoisonEntryError: polars cannot hold it
    """
    if layout is not None:
        if layout["kind"] == "DataFrame":
            width = index_width(layout["index"])
            table = table.rename_columns(_unique(table.column_names)) if width else table
        table = _without_layout(table, is_bare=layout.get("bare", True))
    return table if frames == "arrow" else _polars(table)


def _polars(table: pa.Table) -> Any:
    import polars as pl  # noqa: PLC0415 - optional; `Decoding` has checked that it is installed

    if any(_NUL in name for name in _names(table.schema)):
        msg = "expected column names without the character NUL, got one with it; read the topic with frames='arrow'"
        raise PoisonEntryError(msg)
    try:
        return pl.DataFrame(table)
    except Exception as error:  # its own exceptions, and those of its compiled part
        why = type(error).__name__
        msg = f"expected a frame that polars can hold, got one it cannot ({why}); read the topic with frames='arrow'"
        raise PoisonEntryError(msg) from error


def _names(fields: Iterable[pa.Field]) -> Iterator[str]:
    """Yield the names of fields and of those within them."""
    for field in fields:
        yield field.name
        kind = field.type
        yield from _names([kind.field(i) for i in range(kind.num_fields)])


def _without_layout(table: pa.Table, *, is_bare: bool) -> pa.Table:
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != KEY}
    return table.replace_schema_metadata(None if is_bare and not metadata else metadata)


def _unique(names: Iterable[str]) -> list[str]:
    """Return names of which no two are the same: later ones get a '_' at the end."""
    found: dict[str, None] = {}
    for name in names:
        while name in found:
            name += "_"  # noqa: PLW2901 - until it is free
        found[name] = None
    return list(found)
