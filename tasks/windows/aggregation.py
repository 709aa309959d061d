"""Aggregations of single elements by pandas' names, kept as a few numbers instead of the elements.

As in pandas, missing values (None, NaN, NA, NaT) are skipped. `first` and `last` are by event time; among elements of one time, by
their order.
"""

import re
from collections.abc import Callable, Hashable, Mapping
from textwrap import indent
from typing import Any, Literal, NamedTuple, get_args

import pandas as pd

from tasks.checks import check_choice
from tasks.errors import SettingsError

__all__ = ["Aggregation", "Kind", "aggregations", "entry_aggregator", "merged", "values_of"]

Kind = Literal["first", "last", "max", "min", "sum", "mean", "count"]
Cell = list[Any]


class Aggregation(NamedTuple):
    """One aggregated value.

    name    of the result
    column  the field or column that is aggregated; None: the element itself
    """

    name: str
    column: Hashable | None
    kind: Kind


def aggregations(named: Mapping[str, Any]) -> list[Aggregation]:
    """Return aggregations given as `pandas.DataFrame.agg` takes them: name=(column, kind), or name=kind for elements that are values.

    raises    SettingsError: something else
    """
    if not named:
        msg = "agg: expected aggregations such as high=('price', 'max'), got none"
        raise SettingsError(msg)
    return [_aggregation(name, given) for name, given in named.items()]


def _aggregation(name: str, given: Any) -> Aggregation:
    pair: Any = given if isinstance(given, tuple) and len(given) == 2 else (None, given)  # noqa: PLR2004
    column, kind = pair
    check_choice(kind, get_args(Kind), name=f"agg: {name}")
    return Aggregation(name, column, kind)


# What a value does to its cell: `a` and `m` are the two places of the aggregation, `v` is the value.
_STEPS: dict[Kind, str] = {
    "sum": "a, m = a + v if m else v, 1",
    "mean": "a, m = a + v, m + 1",
    "count": "a += 1",
    "max": "if not m or v > a: a, m = v, 1",
    "min": "if not m or v < a: a, m = v, 1",
    "last": "if a is None or time >= m: a, m = v, time",
    "first": "if a is None or time < m: a, m = v, time",
}
_ADDED = """\
def added(cell, x, time):
    [{places}] = empty if cell is None else cell
{steps}
    return [{places}]
"""
_COLUMN = """\
    v = {value}
    if not (v is None or v is na or v != v):  # NaN and NaT
"""


def entry_aggregator(wanted: list[Aggregation]) -> Callable[[Cell | None, Any, int], Cell]:
    """Return a function of a cell (None: of a new window), an element and its event time, which returns the new cell.

    A cell has two places for each aggregation. The given cell is not changed, so that an element that raises leaves nothing.
    """
    added = _compiled(wanted)

    def add(cell: Cell | None, x: Any, time: int) -> Cell:
        try:
            return added(cell, x, time)
        except TypeError as error:
            if isinstance(x, Mapping) and (names := [one.name for one in wanted if one.column is None]):
                kind = next(one.kind for one in wanted if one.column is None)
                msg = (
                    f"agg: expected elements that are values for {', '.join(names)}, got a {type(x).__name__} with fields; "
                    f"name the field: {names[0]}=('field', '{kind}')"
                )
                raise TypeError(msg) from error
            raise

    return add


def _compiled(wanted: list[Aggregation]) -> Callable[[Cell | None, Any, int], Cell]:
    """Return the function that adds an element, generated like the methods of dataclasses: it takes half the time of a loop."""
    columns: dict[Hashable | None, str] = {}
    for n, one in enumerate(wanted):
        step = re.sub(r"\b[am]\b", lambda found, n=n: f"{found[0]}{n}", _STEPS[one.kind])
        value = "x" if one.column is None else f"x[columns[{n}]]"
        columns[one.column] = columns.get(one.column, _COLUMN.format(value=value)) + indent(step, 8 * " ") + "\n"
    scope: dict[str, Any] = {
        "columns": [one.column for one in wanted],
        "empty": [each for one in wanted for each in ((0, 0) if one.kind in ("sum", "mean", "count") else (None, 0))],
        "na": pd.NA,
    }
    places = ", ".join(f"a{n}, m{n}" for n in range(len(wanted)))
    exec(_ADDED.format(places=places, steps="".join(columns.values())), scope)  # noqa: S102 - numbers and the text above
    return scope["added"]


def merged(wanted: list[Aggregation], old: Cell, new: Cell) -> Cell:
    """Return the cell of the elements of two cells; of values of one time, those of `old` came first."""
    cell: Cell = []
    for n, one in enumerate(wanted):
        (a, a_mark), (b, b_mark) = old[2 * n : 2 * n + 2], new[2 * n : 2 * n + 2]
        if one.kind in ("mean", "count"):
            cell += [a + b, a_mark + b_mark]
        elif one.kind == "sum":
            cell += [a + b, 1] if a_mark and b_mark else [b, b_mark] if b_mark else [a, a_mark]
        elif one.kind in ("max", "min"):
            takes_new = b_mark and (not a_mark or (b > a if one.kind == "max" else b < a))
            cell += [b, b_mark] if takes_new else [a, a_mark]
        else:
            is_later = b_mark >= a_mark if one.kind == "last" else b_mark < a_mark
            cell += [b, b_mark] if b is not None and (a is None or is_later) else [a, a_mark]
    return cell


def values_of(wanted: list[Aggregation], cell: Cell) -> dict[str, Any]:
    """Return the aggregated values of a cell. Without any value, a mean is NaN, and first, last, max and min are None."""
    found: dict[str, Any] = {}
    for n, one in enumerate(wanted):
        value, number = cell[2 * n], cell[2 * n + 1]
        found[one.name] = (value / number if number else float("nan")) if one.kind == "mean" else value
    return found
