"""The output of `--json`: one JSON text a line, with one form for each value that an entry can hold."""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.errors import PoisonEntryError
from tasks.reservoir.entry import Entry
from tasks.reservoir.levels import TopicLevel

__all__ = ["entry_object", "level_object", "line", "plain", "with_index"]


def line(value: Any) -> str:
    """Return a value as one line of JSON that every parser accepts: without NaN, ASCII only."""
    return json.dumps(plain(value), allow_nan=False)


def entry_object(entry: Entry | PoisonEntryError, topic: str) -> dict[str, Any]:
    """Return an entry as an object: topic, id, time and fields, or the error if it cannot be decoded."""
    if isinstance(entry, PoisonEntryError):
        return {"topic": topic, "id": entry.id, "error": str(entry)}
    return {"topic": topic, "id": entry.id, "time": entry.time, "fields": dict(entry)}


def level_object(level: TopicLevel, *, partitions: bool = False) -> dict[str, Any]:
    """Return a level as an object, with the levels of its partitions if asked."""
    found = asdict(level) | {"keep": str(level.keep) if level.keep else None}
    if partitions:
        return found | {"partitions": [level_object(each) for each in level.partitions]}
    del found["partitions"]
    return found


def plain(value: Any) -> Any:
    """Return a value as JSON: a frame as a list of rows, bytes as Base64, missing values as null."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, pa.Table):
        value = value.to_pandas()
    if isinstance(value, pd.DataFrame):
        return _rows(value)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "mM":
        value = value.astype(f"{value.dtype.kind}8[us]")  # tolist() turns nanoseconds into integers
    if isinstance(value, np.ndarray | np.generic | pd.Series | pd.Index):
        value = value.tolist()
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    return _scalar(value)


def with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with its index as columns, unless it is a plain row number."""
    return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index(allow_duplicates=True)


def _scalar(value: Any) -> Any:
    if value is pd.NaT or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as objects."""
    named = with_index(frame)
    names: list[str] = []
    for name in map(str, named.columns):
        seen = sum(each == name or each.rpartition(".")[0] == name for each in names)
        names.append(f"{name}.{seen}" if name in names else name)  # as pandas names duplicate columns of a file
    columns = [plain(named.iloc[:, n]) for n in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
