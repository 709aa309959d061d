"""Aggregations of the rows of frames by key, kept as one row for each key instead of the rows.

A table has the keys as its index, in order of arrival. For each aggregation it has an array of values, and for some a second one: the
event times of first and last values, the numbers of values of a mean. It is no DataFrame, because making one for each frame takes
longer than the aggregation of 5,000 rows.
"""

from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from tasks.windows.aggregation import Aggregation
from tasks.windows.times import column

__all__ = ["Table", "added", "finished", "reduced"]


class Table(NamedTuple):
    """Aggregated values by key; the arrays are named by the number of their aggregation."""

    keys: pd.Index
    parts: dict[str, Any]

    def as_frame(self) -> Any:
        """Return the table as a DataFrame."""
        return pd.DataFrame(self.parts, index=self.keys)

    @classmethod
    def of_frame(cls, frame: Any) -> Self:
        """Return the table that a DataFrame shows."""
        return cls(frame.index, {name: _plain(frame[name].array) for name in frame.columns})


def _plain(array: Any) -> Any:
    """Return an array of numpy's if it is one."""
    return array.to_numpy() if isinstance(array, pd.arrays.NumpyExtensionArray) else array


def reduced(frame: pd.DataFrame, keys: list[Any], times: np.ndarray, wanted: list[Aggregation]) -> Table:
    """Return the table of the rows of one frame.

    keys       names of columns or index levels; none: all rows together
    times      event times of the rows
    """
    columns = {one.column: _plain(column(frame, one.column).array) for one in wanted}
    if not keys:
        index = pd.Index(np.zeros(len(frame), dtype="int64"))
    elif len(keys) == 1:
        found = column(frame, keys[0])
        index = found if isinstance(found, pd.Index) else pd.Index(found)
    else:
        index = pd.MultiIndex.from_arrays([column(frame, key) for key in keys])
    parts: dict[str, Any] = {}
    if index.is_unique:
        missing = {name: np.asarray(pd.isna(values)) for name, values in columns.items()}
        for n, one in enumerate(wanted):
            _of_rows(parts, n, one.kind, columns[one.column], missing[one.column], times)
        return Table(index, parts)
    codes, _ = pd.factorize(index, use_na_sentinel=False)
    unique: Any = index[~index.duplicated()]
    in_order = None if (np.diff(times) >= 0).all() else np.argsort(times, kind="stable")
    for n, one in enumerate(wanted):
        _of_groups(parts, n, one.kind, pd.Series(columns[one.column]), codes, len(unique), times, in_order)
    return Table(unique, parts)


def _of_groups(  # noqa: PLR0917 - of one caller
    parts: dict[str, Any],
    n: int,
    kind: str,
    values: pd.Series,
    codes: np.ndarray,
    groups: int,
    times: np.ndarray,
    in_order: np.ndarray | None,
) -> None:
    """Add the arrays of an aggregation of rows that share keys."""
    if kind in ("first", "last"):
        known = np.flatnonzero(values.notna())
        order = known if in_order is None else in_order[np.isin(in_order, known)]
        at = pd.Series(order).groupby(codes[order]).agg(kind).reindex(range(groups)).fillna(-1).to_numpy("int64")
        taken = np.maximum(at, 0)
        parts[f"{n}"] = _plain(values.take(taken).reset_index(drop=True).where(pd.Series(at >= 0)).array)
        parts[f"{n}t"] = np.where(at >= 0, times[taken], 0)
    elif kind == "mean":
        grouped = values.groupby(codes)
        parts[f"{n}"], parts[f"{n}n"] = _plain(grouped.sum().array), grouped.count().to_numpy()
    else:
        parts[f"{n}"] = _plain(values.groupby(codes).agg(kind).array)


def _of_rows(parts: dict[str, Any], n: int, kind: str, values: Any, missing: np.ndarray, times: np.ndarray) -> None:  # noqa: PLR0917
    """Add the arrays of an aggregation of single rows."""
    is_known = ~missing
    if kind == "count":
        parts[f"{n}"] = is_known.astype("int64")
    elif kind in ("sum", "mean"):
        parts[f"{n}"] = _plain(pd.Series(values).fillna(0).array) if missing.any() else values
        if kind == "mean":
            parts[f"{n}n"] = is_known.astype("int64")
    else:
        parts[f"{n}"] = values
        if kind in ("first", "last"):
            parts[f"{n}t"] = np.where(is_known, times, 0)


def added(table: Table | None, more: Table, wanted: list[Aggregation]) -> Table:
    """Return a table with the rows of another, whose elements came later. Neither is changed."""
    if table is None:  # copies, because the frame may be changed in place
        return Table(more.keys, {name: part.copy() for name, part in more.parts.items()})
    if table.keys is more.keys or table.keys.equals(more.keys):
        return _combined(table, more, wanted)
    at = more.keys.get_indexer(table.keys)
    both = at >= 0
    old, new = table.as_frame(), more.as_frame()
    rest = new[~new.index.isin(old.index)]
    if not both.any():
        return Table.of_frame(pd.concat([old, rest]))
    known = _combined(Table.of_frame(old[both]), Table.of_frame(new.take(at[both])), wanted).as_frame()
    joined: Any = pd.concat([part for part in (known, old[~both], rest) if len(part)])
    return Table.of_frame(joined.take(joined.index.get_indexer(old.index.append(rest.index))))


def _combined(old: Table, new: Table, wanted: list[Aggregation]) -> Table:
    """Combine two tables of the same keys in the same order."""
    parts: dict[str, Any] = {}
    for n, one in enumerate(wanted):
        name = f"{n}"
        a, b = old.parts[name], new.parts[name]
        if one.kind in ("sum", "count", "mean"):
            parts[name] = a + b
            if one.kind == "mean":
                parts[f"{n}n"] = old.parts[f"{n}n"] + new.parts[f"{n}n"]
        elif one.kind in ("max", "min"):
            parts[name] = _extreme(a, b, one.kind)
        else:
            was, comes = old.parts[f"{n}t"], new.parts[f"{n}t"]
            takes = (comes < was) if one.kind == "first" else (comes >= was)
            takes = (takes & ~np.asarray(pd.isna(b))) | np.asarray(pd.isna(a))
            parts[name] = b.copy() if takes.all() else a if not takes.any() else _chosen(takes, b, a)
            parts[f"{n}t"] = np.where(takes, comes, was)
    return Table(old.keys, parts)


def _extreme(a: Any, b: Any, kind: str) -> Any:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype.kind in "iuf" and b.dtype.kind in "iuf":
        return (np.fmax if kind == "max" else np.fmin)(a, b)
    takes = pd.Series((b > a) if kind == "max" else (b < a)).fillna(value=False).to_numpy("bool")
    takes = (takes & ~np.asarray(pd.isna(b))) | np.asarray(pd.isna(a))
    return _chosen(takes, b, a)


def _chosen(takes: np.ndarray, b: Any, a: Any) -> Any:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.where(takes, b, a)
    return pd.Series(b).where(pd.Series(takes), pd.Series(a)).array


def finished(table: Table, wanted: list[Aggregation]) -> pd.DataFrame:
    """Return the aggregated values of a table by their names."""
    parts: dict[str, Any] = {}
    for n, one in enumerate(wanted):
        values = table.parts[f"{n}"]
        if one.kind == "mean":
            number = table.parts[f"{n}n"]
            values = (pd.Series(values) / number).where(pd.Series(number > 0)).array
        parts[one.name] = values
    return pd.DataFrame(parts, index=table.keys)
