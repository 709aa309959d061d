"""Arrow IPC streams that other programs wrote, as DataFrames."""

import re

import pandas as pd
import pyarrow as pa

from tasks.errors import PoisonEntryError
from tasks.jsontext import from_json

__all__ = ["foreign_frame"]

_PANDAS = b"pandas"
_PLAIN_DTYPES = re.compile(
    r"object|str|string(\[(python|pyarrow)\])?|bool|boolean|category"
    r"|[Uu]?[Ii]nt(8|16|32|64)|[Ff]loat(16|32|64)"
    r"|(datetime64|timedelta64)(\[(s|ms|us|ns)(, [\w/+:-]{1,64})?\])?"
)


def foreign_frame(table: pa.Table) -> pd.DataFrame:
    """Return somebody else's table as a frame, with the index that pandas' own metadata says.

    raises    PoisonEntryError: metadata with unusual dtypes; one like 'U500000000' would take 2 GB a label
    """
    text = (table.schema.metadata or {}).get(_PANDAS)
    if text is None:
        return table.to_pandas(ignore_metadata=True, use_threads=False)
    hints = from_json(text.decode())
    for column in [*hints.get("columns", []), *hints.get("column_indexes", [])]:
        if not _PLAIN_DTYPES.fullmatch(column["numpy_type"]):
            msg = "expected plain dtypes in the metadata of pandas, got another"
            raise PoisonEntryError(msg)
    return table.to_pandas(use_threads=False)
