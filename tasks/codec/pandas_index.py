"""Indexes, column labels and names of pandas <-> Arrow columns and the layout."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.codec.arrow_ipc import open_stream
from tasks.codec.columns import freq_text, from_arrow, plain_dtype, to_arrow
from tasks.codec.layouts import Layout, layout_of, sealed
from tasks.codec.limits import Budget
from tasks.codec.scalars import is_scalar, pack_scalar, unpack_scalar
from tasks.errors import EncodeError, PoisonEntryError

__all__ = [
    "INDEXES",
    "Packed",
    "array_of",
    "index_names",
    "index_width",
    "pack_index",
    "pack_labels",
    "pack_lone_index",
    "pack_name",
    "unpack_index",
    "unpack_labels",
    "unpack_name",
]

INDEXES = (
    *(pd.Index, pd.RangeIndex, pd.DatetimeIndex, pd.TimedeltaIndex),
    *(pd.CategoricalIndex, pd.PeriodIndex, pd.IntervalIndex, pd.MultiIndex),
)
Packed = tuple[pa.Array, str]
"""An Arrow array and the word for the dtype it had."""


def pack_lone_index(index: pd.Index) -> tuple[pa.RecordBatch, Layout]:
    """Return an index that is a value of its own as a batch of its levels.

    raises    EncodeError: it would not come back equal
    """
    inner, packed = pack_index(index)
    layout = {"kind": "Index", "rows": len(index), "index": inner, "dtypes": [word for _, word in packed]}
    arrays = [array for array, _ in packed]
    return pa.RecordBatch.from_arrays(arrays, names=index_names(index, len(arrays))), layout


def index_names(index: pd.Index, width: int) -> list[str]:
    """Return the names of an index' first `width` levels as names of Arrow columns."""
    return [f"__index_level_{i}__" if name is None else str(name) for i, name in enumerate(index.names[:width])]


def pack_index(index: pd.Index) -> tuple[Layout, list[Packed]]:
    """Return an index as its layout and the columns of its levels; a RangeIndex has none.

    raises    EncodeError: it would not come back equal
    """
    if type(index) not in INDEXES:
        got = type(index).__name__
        msg = f"index: expected one that Arrow keeps, got a {got}; use reset_index() or astype(str)"
        raise EncodeError(msg)
    names = [pack_name(name) for name in index.names]
    if type(index) is pd.RangeIndex:
        return {"range": [index.start, index.stop, index.step], "names": names}, []
    if isinstance(index, pd.MultiIndex):
        packed, with_freq = _pack_levels(index)
        return {"names": names, "multi": True, **({"with_freq": with_freq} if with_freq else {})}, packed
    layout: Layout = {"names": names}
    # The freq of a PeriodIndex is in its dtype.
    if not isinstance(index, pd.PeriodIndex) and (freq := getattr(index, "freq", None)) is not None:
        layout["freq"] = freq_text(freq, "index")
    return layout, [to_arrow(array_of(index), lambda: "index")]


def _pack_levels(index: pd.MultiIndex) -> tuple[list[Packed], list[int]]:
    """Return the columns of the levels, and which levels are dictionaries, because they have a freq.

    Only a dictionary keeps the values of such a level that no row uses.
    """
    packed, with_freq = [], []
    for i, level in enumerate(index.levels):
        where: Callable[[], str] = lambda i=i: f"index level {i}"  # noqa: E731 - one for each level
        if not isinstance(level, pd.PeriodIndex) and getattr(level, "freq", None) is not None:
            with_freq.append(i)
            packed.append(to_arrow(pd.Categorical.from_codes(index.codes[i], categories=level.rename(None)), where))
            continue
        values = index.get_level_values(i)
        if values.dtype != index.levels[i].dtype:
            msg = f"{where()}: expected no missing {index.levels[i].dtype}, got some; use reset_index()"
            raise EncodeError(msg)
        packed.append(to_arrow(array_of(values), where))
    return packed, with_freq


def pack_labels(columns: pd.Index) -> Any:
    """Return the layout of a frame's column labels: text and ranges as JSON, all others as a stream within it."""
    layout, packed = pack_index(columns)
    if not packed or (
        type(columns) is pd.Index
        and packed[0][1] in ("object:str", "string[pyarrow,nan]")
        and not packed[0][0].null_count
    ):
        return {**layout, "dtype": packed[0][1] if packed else None}
    return {"stream": _to_text(sealed(*pack_lone_index(columns)))}


def pack_name(name: Any) -> Any:
    """Return the name of a column or index as JSON.

    raises    EncodeError: a name that is no text, number, moment or tuple of these
    """
    if name is None or type(name) in (str, int, float, bool):
        return name
    if type(name) is tuple:
        return {"tuple": [pack_name(part) for part in name]}
    if is_scalar(name):
        return {"stream": _to_text(sealed(*pack_scalar(name)))}
    got = type(name).__name__
    msg = f"name of a column or index: expected text, a number or a moment, got {got}; rename it"
    raise EncodeError(msg)


def array_of(series: pd.Series | pd.Index) -> Any:
    """Return the values of a series or index as numpy's or pandas' array."""
    return series.to_numpy() if isinstance(series.dtype, np.dtype) else series.array


def index_width(index: Layout) -> int:
    """Return how many columns an index takes."""
    return 0 if "range" in index else len(index["names"])


def unpack_index(table: pa.Table, layout: Layout, budget: Budget) -> pd.Index:
    """Return the index in the last columns of a table."""
    index = layout["index"]
    if "range" in index:
        found = _range(index, budget)
        if len(found) != layout["rows"]:
            msg = "expected an index as long as the frame, got another"
            raise PoisonEntryError(msg)
        return found
    width = index_width(index)
    start = table.num_columns - width
    arrays = [from_arrow(table.column(start + i), layout["dtypes"][start + i]) for i in range(width)]
    names = [unpack_name(name, budget) for name in index["names"]]
    if index.get("multi"):
        return _multi_index(arrays, names, index.get("with_freq", []))
    (array,), (name,) = arrays, names
    found = pd.Index(array, dtype=array.dtype, name=name, copy=False)
    if freq := index.get("freq"):
        found.freq = freq  # checks every value against it  # pyright: ignore[reportAttributeAccessIssue]
    return found


def unpack_labels(labels: Layout, names: list[str], budget: Budget) -> pd.Index:
    """Return the column labels of a frame; `names` are those of its Arrow columns."""
    if "stream" in labels:
        return _from_text(labels["stream"], budget)
    if "range" in labels:
        return _range(labels, budget)
    dtype = "object" if labels["dtype"] == "object:str" else plain_dtype("string[pyarrow,nan]")
    return pd.Index(names, dtype=dtype, name=unpack_name(labels["names"][0], budget))


def unpack_name(name: Any, budget: Budget) -> Any:
    """Return the name that `pack_name` was given."""
    if not isinstance(name, dict):
        return name
    if "tuple" in name:
        return tuple(unpack_name(part, budget) for part in name["tuple"])
    return _from_text(name["stream"], budget)


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_text(text: str, budget: Budget) -> Any:
    """Return the index or scalar in a stream within a layout, which was weighed with the stream around it."""
    table = open_stream(base64.b64decode(text))
    layout = layout_of(table.schema)
    if layout is None or (table.num_columns and table.num_rows != layout["rows"]):
        msg = "expected labels and names as Sluice writes them, got others"
        raise PoisonEntryError(msg)
    if layout["kind"] == "Index":
        return unpack_index(table, layout, budget)
    return unpack_scalar(table.column(0), layout)


def _multi_index(arrays: list[Any], names: list[Any], with_freq: list[int]) -> pd.MultiIndex:
    levels = {i: arrays[i] for i in with_freq}
    for i, known in levels.items():
        arrays[i] = known.astype(known.categories.dtype)
    found = pd.MultiIndex.from_arrays(arrays, names=names)
    for i, known in levels.items():
        found = found.set_levels(known.categories, level=i, verify_integrity=False)
        found = found.set_codes(known.codes, level=i, verify_integrity=False)
    return found


def _range(index: Layout, budget: Budget) -> pd.RangeIndex:
    found = pd.RangeIndex(*index["range"], name=unpack_name(index["names"][0], budget))
    if len(found) > budget.limits.max_rows:
        msg = f"expected at most {budget.limits.max_rows:,} rows, got more"
        raise PoisonEntryError(msg)
    return found
