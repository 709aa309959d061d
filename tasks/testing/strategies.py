"""Hypothesis strategies for values, frames and entries that can be pushed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from hypothesis.strategies import SearchStrategy

from tasks.checks import seconds
from tasks.errors import SettingsError
from tasks.reservoir.entry import Entry
from tasks.reservoir.topic_names import check_topic

__all__ = ["Pushed", "entries", "frames", "values"]

Column = str | tuple[str, SearchStrategy[Any]]

_BEGINNING = pd.Timestamp("2026-01-01", tz="UTC")
_CENTURIES = 8 * 10**15  # two and a half of them, in microseconds: nanoseconds reach no further
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)  # no lone surrogates: UTF-8 has none


class Pushed(Entry):
    """An entry to push. Its `repr` shows its fields, so that Hypothesis prints them when a test fails."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Pushed({dict(self)!r}, topic={self.topic!r}, id={self.id!r})"


def values(*, allow_nan: bool = False, max_leaves: int = 10) -> SearchStrategy[Any]:
    """Return values that JSON can hold: None, bool, int, float, str, and lists and dicts of them.

    allow_nan   include NaN, which does not equal itself
    """
    plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=allow_nan) | _TEXT
    return st.recursive(
        plain,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_TEXT, inner, max_size=5),
        max_leaves=max_leaves,
    )


@st.composite
def frames(
    draw: st.DrawFn,
    columns: Mapping[str, Column],
    *,
    index: str | None = None,
    min_rows: int = 0,
    max_rows: int = 10,
) -> pd.DataFrame:
    """Return DataFrames of these columns.

    columns   by name: a dtype, such as 'int64', 'float64', 'bool', 'str', 'datetime64[ns, UTC]'; or a dtype and a strategy
              for its values, such as ('int64', st.integers(0, 100)). Without a strategy, no value is missing or infinite
    index     the column that becomes the index; by default rows are numbered
    """
    rows = draw(st.integers(min_rows, max_rows))
    made = {}
    for name, column in columns.items():
        dtype, elements = column if isinstance(column, tuple) else (column, _elements(name, column))
        made[name] = pd.Series(draw(st.lists(elements, min_size=rows, max_size=rows)), dtype=dtype)
    frame = pd.DataFrame(made)
    return frame if index is None else frame.set_index(index)


def entries(
    *kinds: SearchStrategy[Mapping[str, Any]],
    topics: str | Sequence[str] = "topic",
    min_size: int = 0,
    max_size: int = 10,
    every: str | float = "1s",
    **fields: SearchStrategy[Any],
) -> SearchStrategy[list[Pushed]]:
    """Return lists of entries in push order.

    fields   a strategy for each field; each entry has one or more of these fields
    kinds    further kinds of entries, as strategies for all their fields, such as
             st.fixed_dictionaries({"vitals": frames(...), "totals": ...}) for fields that always occur together
    topics   one topic or several; each entry belongs to one of them
    every    the time between two entries; the first is at the beginning of 2026
    """
    if not kinds and not fields:
        msg = "entries: expected fields to draw from, got none; write for example entries(n=st.integers())"
        raise SettingsError(msg)
    several = [*kinds, *([_some_of(fields)] if fields else [])]
    names = [check_topic(topic) for topic in ([topics] if isinstance(topics, str) else topics)]
    step = seconds(every, name="every")
    one = st.tuples(st.sampled_from(names), st.one_of(several))

    def timed(drawn: list[tuple[str, Mapping[str, Any]]]) -> list[Pushed]:
        beginning = _BEGINNING.timestamp()
        times = [round((beginning + n * step) * 1000) for n in range(len(drawn))]
        return [
            Pushed(made, topic=topic, id=f"{ms}-{n}")  # the sequence number distinguishes entries of one millisecond
            for n, (ms, (topic, made)) in enumerate(zip(times, drawn, strict=True))
        ]

    return st.lists(one, min_size=min_size, max_size=max_size).map(timed)


@st.composite
def _some_of(draw: st.DrawFn, fields: Mapping[str, SearchStrategy[Any]]) -> dict[str, Any]:
    chosen = draw(st.lists(st.sampled_from(sorted(fields)), min_size=1, unique=True))
    return {name: draw(elements) for name, elements in fields.items() if name in chosen}


def _elements(name: str, dtype: str) -> SearchStrategy[Any]:
    """Return the strategy for the values of a column of that dtype.

    raises    SettingsError: the dtype alone does not imply one
    """
    if dtype == "str":
        return _TEXT
    made = pd.api.types.pandas_dtype(dtype)
    if isinstance(made, pd.DatetimeTZDtype):
        microseconds = st.integers(-_CENTURIES, _CENTURIES)
        return microseconds.map(lambda since_1970: pd.Timestamp(since_1970, unit="us", tz="UTC"))
    if isinstance(made, np.dtype) and made.kind in "biufmM":
        return numpy_strategies.from_dtype(made, allow_nan=False, allow_infinity=False)
    msg = f"column {name!r}: expected what to draw {dtype!r} from, got the dtype alone; write for example ({dtype!r}, st.sampled_from(...))"
    raise SettingsError(msg)
