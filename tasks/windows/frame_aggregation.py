"""Aggregations of the rows of frames by key, kept as one row for each key instead of the rows.

A table has the keys as its index, in order of arrival. For each aggregation it has a column `value`, and for some a second one: the
event time of a first or last value, the number of values of a mean or a sum.
"""

from typing import Any

import numpy as np
import pandas as pd

from tasks.windows.aggregation import Aggregation
from tasks.windows.times import column

__all__ = ["added", "finished", "reduced"]


def reduced(
    frame: pd.DataFrame, keys: list[Any], times: np.ndarray, wanted: list[Aggregation], *, is_unique: bool = False
) -> pd.DataFrame:
    """Return the table of the rows of one frame.

    keys       names of columns or index levels; none: all rows together
    times      event times of the rows
    is_unique  no two rows have the same key: nothing is to be grouped
    """
    columns = {n: pd.Series(column(frame, one.column).array) for n, one in enumerate(wanted)}
    if keys:
        index = (
            pd.MultiIndex.from_arrays([column(frame, key) for key in keys]) if len(keys) > 1 else _index(frame, keys[0])
        )
    else:
        index = pd.Index(np.zeros(len(frame), dtype="int64"))
    if is_unique or index.is_unique:
        return pd.DataFrame(
            {name: part for n, one in enumerate(wanted) for name, part in _of_rows(n, one.kind, columns[n], times)},
            index=index,
        )
    codes, unique = pd.factorize(index)
    in_order = None if (np.diff(times) >= 0).all() else np.argsort(times, kind="stable")
    parts: dict[str, Any] = {}
    for n, one in enumerate(wanted):
        values = columns[n]
        by = codes
        if one.kind in ("first", "last"):
            known = np.flatnonzero(values.notna())
            order = known if in_order is None else in_order[np.isin(in_order, known)]
            at = pd.Series(order).groupby(codes[order]).agg(one.kind).reindex(range(len(unique)))
            taken = at.fillna(-1).to_numpy("int64")
            parts[f"{n}"] = values.take(np.maximum(taken, 0)).where(pd.Series(taken >= 0, dtype=bool).array).array
            parts[f"{n}t"] = np.where(taken >= 0, times[np.maximum(taken, 0)], 0)
        elif one.kind == "mean":
            grouped = values.groupby(by)
            parts[f"{n}"], parts[f"{n}n"] = grouped.sum().array, grouped.count().to_numpy()
        else:
            parts[f"{n}"] = values.groupby(by).agg(one.kind).array
    return pd.DataFrame(parts, index=pd.Index(unique).set_names(list(index.names)))


def _index(frame: pd.DataFrame, key: Any) -> pd.Index:
    found = column(frame, key)
    return found if isinstance(found, pd.Index) else pd.Index(found)


def _of_rows(n: int, kind: str, values: pd.Series, times: np.ndarray) -> list[tuple[str, Any]]:
    """Return the columns of an aggregation of single rows."""
    if kind == "count":
        return [(f"{n}", values.notna().to_numpy().astype("int64"))]
    if kind == "mean":
        return [(f"{n}", values.fillna(0).array), (f"{n}n", values.notna().to_numpy().astype("int64"))]
    if kind == "sum":
        return [(f"{n}", values.fillna(0).array if values.hasnans else values.array)]
    if kind in ("first", "last"):
        return [(f"{n}", values.array), (f"{n}t", np.where(values.notna(), times, 0))]
    return [(f"{n}", values.array)]


def added(table: pd.DataFrame | None, more: pd.DataFrame, wanted: list[Aggregation]) -> pd.DataFrame:
    """Return a table with the rows of another, whose elements came later. Neither is changed."""
    if table is None:
        return more
    if table.index is more.index or table.index.equals(more.index):
        return _combined(table, more, wanted)
    at = more.index.get_indexer(table.index)
    if (at < 0).all():
        return pd.concat([table, more])
    both = at >= 0
    known = _combined(table[both], more.take(at[both]), wanted)
    rest: Any = more[~more.index.isin(table.index)]
    joined: Any = pd.concat([known, table[~both], rest])
    return joined.take(joined.index.get_indexer(table.index.append(rest.index)))


def _combined(old: Any, new: Any, wanted: list[Aggregation]) -> pd.DataFrame:
    """Combine two tables of the same keys in the same order."""
    parts: dict[str, Any] = {}
    for n, one in enumerate(wanted):
        name = f"{n}"
        a, b = old[name].array, new[name].array
        if one.kind in ("sum", "count"):
            parts[name] = a + b
        elif one.kind == "mean":
            parts[name] = a + b
            parts[f"{n}n"] = old[f"{n}n"].array + new[f"{n}n"].array
        elif one.kind in ("max", "min"):
            parts[name] = _extreme(a, b, one.kind)
        else:
            was, comes = old[f"{n}t"].to_numpy(), new[f"{n}t"].to_numpy()
            takes = (comes < was) if one.kind == "first" else (comes >= was)
            takes = (takes & ~np.asarray(pd.isna(b))) | np.asarray(pd.isna(a))
            parts[name] = b if takes.all() else a if not takes.any() else _chosen(takes, b, a)
            parts[f"{n}t"] = np.where(takes, comes, was)
    return pd.DataFrame(parts, index=old.index)


def _extreme(a: Any, b: Any, kind: str) -> Any:
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype.kind in "iuf" and y.dtype.kind in "iuf" and not hasattr(a, "_mask"):
        return (np.fmax if kind == "max" else np.fmin)(x, y)
    takes = np.asarray((b > a) if kind == "max" else (b < a), dtype="object") == True  # noqa: E712 - NA is no
    takes = (takes & ~np.asarray(pd.isna(b))) | np.asarray(pd.isna(a))
    return _chosen(takes, b, a)


def _chosen(takes: np.ndarray, b: Any, a: Any) -> Any:
    return pd.Series(b).where(takes, pd.Series(a)).array


def finished(table: pd.DataFrame, wanted: list[Aggregation]) -> pd.DataFrame:
    """Return the aggregated values of a table by their names."""
    parts: dict[str, Any] = {}
    for n, one in enumerate(wanted):
        values = table[f"{n}"]
        if one.kind == "mean":
            number = table[f"{n}n"]
            values = (values / number).where(number > 0)
        parts[one.name] = values
    return pd.DataFrame(parts, index=table.index)
