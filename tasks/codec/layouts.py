"""The layout of an Arrow IPC stream: JSON in its schema's metadata for everything that Arrow itself has no place for."""

from typing import Any

import pyarrow as pa

from tasks.codec.arrow_ipc import write_stream
from tasks.codec.json_text import from_json, to_json
from tasks.errors import PoisonEntryError

__all__ = ["KEY", "Layout", "layout_of", "sealed"]

KEY = b"sluice"
Layout = dict[str, Any]
"""`kind` and `rows`, and per kind: `dtypes`, `index`, `columns`, `name`, `attrs`, `dtype`, `shape`..."""


def sealed(data: pa.RecordBatch | pa.Table, layout: Layout, *, compression: str | None = None) -> bytes:
    """Return one IPC stream of `data` with its layout."""
    metadata = {**(data.schema.metadata or {}), KEY: to_json(layout, "names or attrs")}
    return write_stream(data.replace_schema_metadata(metadata), compression=compression)


def layout_of(schema: pa.Schema) -> Layout | None:
    """Return the layout in a schema; None if another program wrote the stream.

    raises    PoisonEntryError: a number of rows that is none; any other Exception: malformed
    """
    text = (schema.metadata or {}).get(KEY)
    if text is None:
        return None
    layout = from_json(text.decode())
    if type(layout["rows"]) is not int or layout["rows"] < 0:
        msg = "expected a number of rows in the metadata of Sluice, got something else"
        raise PoisonEntryError(msg)
    return layout
