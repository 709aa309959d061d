"""Aggregations of `streamz.dataframe` return what pandas returns for all rows, whatever frames they come in, and after a crash."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.testing import Bench, drain

Fresh = Callable[[], redis.Redis]
Rows = list[tuple[float, int]]

SECOND = pd.Timedelta(1, unit="s")
START = pd.Timestamp("2026-01-05")
MISSING = math.nan


def as_frame(rows: Rows, *, after: int = 0) -> pd.DataFrame:
    """Return rows of a value that may be missing, a whole number and a key, one a second."""
    index = START + SECOND * np.arange(after, after + len(rows))
    x, n = [x for x, _ in rows], [n for _, n in rows]
    keys = pd.Series(["odd" if each % 2 else "even" for each in n], dtype="str")
    return pd.DataFrame({"x": np.array(x, float), "n": np.array(n, "int64"), "k": keys.to_numpy()}, index=index)


def as_frames(parts: list[Rows]) -> list[pd.DataFrame]:
    ends = np.cumsum([len(rows) for rows in parts])
    return [as_frame(rows, after=end - len(rows)) for rows, end in zip(parts, ends, strict=True)]


def last_rows(frames: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames).iloc[-3:]


def last_seconds(frames: list[pd.DataFrame]) -> pd.DataFrame:
    rows = pd.concat(frames)
    return rows[rows.index > rows.index.max() - 3 * SECOND]


WINDOWS: dict[str, tuple[Callable[[Any], Any], Callable[[list[pd.DataFrame]], pd.DataFrame]]] = {
    "all rows": (lambda frame: frame, pd.concat),
    "the last three rows": (lambda frame: frame.window(n=3), last_rows),
    "the last three seconds": (lambda frame: frame.window(value="3s"), last_seconds),
}
PARTS: dict[str, Callable[[Any], Any]] = {
    "a column": lambda rows: rows.x,
    "columns": lambda rows: rows[["x", "n"]],
    "groups": lambda rows: rows.groupby("k").x,
}
AGGREGATIONS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda rows: rows.sum(),
    "mean": lambda rows: rows.mean(),
    "count": lambda rows: rows.count(),
    "std": lambda rows: rows.std(),  # the root of `var`
}
CUMULATIVE = ["cumsum", "cumprod", "cummin", "cummax"]

# Of two rows: streamz computes each aggregation of the example, too, and cannot divide by zero there.
EXAMPLE = as_frame([(1.0, 1), (2.0, 2)])

# Binary fractions, whose sums have no rounding errors; 0.1 is in the examples.
values = st.sampled_from([0.5, 1.0, 3.0, -2.0, MISSING])
frames_of_rows = st.lists(st.lists(st.tuples(values, st.integers(0, 5)), max_size=4), min_size=1, max_size=4)


def feed(
    client: redis.Redis, frames: list[pd.DataFrame], build: Callable[[Any], Any], *, crash_after: int | None
) -> Bench:
    """Run what `build` makes of a streaming dataframe on frames; the entry before a crash is processed twice."""
    run = drain(
        lambda source: build(source.pluck("frame").to_dataframe(EXAMPLE)),
        [{"frame": frame} for frame in frames],
        client=client,
        crash_after=crash_after,
    )
    assert not run.dead
    assert not run.pending
    return run


def results(
    client: redis.Redis, frames: list[pd.DataFrame], build: Callable[[Any], Any], *, crash_after: int | None
) -> list[Any]:
    """Return what a streaming dataframe emits for frames."""
    return feed(client, frames, lambda sdf: build(sdf).stream, crash_after=crash_after).results


def equal(found: Any, expected: Any) -> bool:
    """Return whether two results are the same numbers under the same labels, whatever their order and type."""
    if isinstance(expected, pd.Series | pd.DataFrame):
        found, expected = found.sort_index(), expected.sort_index()
        return list(found.index) == list(expected.index) and bool(
            np.allclose(found.astype(float), expected.astype(float), equal_nan=True)
        )
    return bool(np.isclose(float(found), float(expected), equal_nan=True))


@pytest.mark.parametrize("over", WINDOWS)
@pytest.mark.parametrize("of", PARTS)
@example(parts=[[], [(1.0, 1), (5.0, 2)]], crash_after=None)
@example(parts=[[(MISSING, 1)], [(1.0, 1), (3.0, 2)]], crash_after=1)
@example(parts=[[(0.1, 1)]], crash_after=None)
@example(parts=[[(0.1, 1), (0.1, 1)], [(0.1, 1)]], crash_after=None)
@example(parts=[[(0.1, 0), (0.1, 0)], [(0.1, 0), (0.1, 1), (0.1, 1), (MISSING, 0)]], crash_after=None)
@given(parts=frames_of_rows, crash_after=st.none() | st.integers(0, 4))
def test_aggregations_are_those_of_pandas(
    fresh_client: Fresh, over: str, of: str, parts: list[Rows], crash_after: int | None
) -> None:
    window, select = WINDOWS[over]
    part, frames, found = PARTS[of], as_frames(parts), defaultdict[str, list[Any]](list)
    # A streaming frame of all rows has a standard deviation of groups only.
    names = [name for name in AGGREGATIONS if name != "std" or of == "groups" or over != "all rows"]

    def build(sdf: Any) -> Any:
        rows = part(window(sdf))
        made = {name: AGGREGATIONS[name](rows) for name in names}
        return [each.stream.sink(found[name].append) for name, each in made.items()]

    feed(fresh_client(), frames, build, crash_after=crash_after)
    if filled := [frame for frame in frames if len(frame)]:
        expected = part(select(filled))
        assert {name: equal(found[name][-1], AGGREGATIONS[name](expected)) for name in names} == dict.fromkeys(
            names, True
        )


@pytest.mark.parametrize("operation", CUMULATIVE)
@example(parts=[[(1.0, 1), (3.0, 1), (MISSING, 1)], [(0.5, 1)]], crash_after=None)
@example(parts=[[(1.0, 1)], [(MISSING, 1), (MISSING, 1)], [(0.5, 1)]], crash_after=2)
@given(parts=frames_of_rows, crash_after=st.none() | st.integers(0, 4))
def test_cumulative_results_are_those_of_pandas(
    fresh_client: Fresh, operation: str, parts: list[Rows], crash_after: int | None
) -> None:
    frames = as_frames(parts)
    found = results(fresh_client(), frames, lambda sdf: getattr(sdf[["x", "n"]], operation)(), crash_after=crash_after)
    rows = pd.concat(found)
    rows = rows[~rows.index.duplicated()]  # those of the entry before the crash came twice
    assert equal(rows, getattr(pd.concat(frames)[["x", "n"]], operation)())


@example(parts=[[], [(1.0, 1), (5.0, 2)]], crash_after=1)
@example(parts=[[(1.0, 1), (MISSING, 2)], [(5.0, 3)]], crash_after=None)
@given(parts=frames_of_rows, crash_after=st.none() | st.integers(0, 4))
def test_weighted_means_are_those_of_pandas(fresh_client: Fresh, parts: list[Rows], crash_after: int | None) -> None:
    frames = as_frames(parts)
    if not sum(map(len, frames)):
        return
    expected = pd.concat(frames)[["x", "n"]].ewm(com=2).mean().iloc[-1]
    found = results(fresh_client(), frames, lambda sdf: sdf[["x", "n"]].ewm(com=2).mean(), crash_after=crash_after)
    assert equal(found[-1].iloc[0], expected)
    found = results(fresh_client(), frames, lambda sdf: sdf.x.ewm(com=2).mean(), crash_after=crash_after)
    assert equal(found[-1].iloc[0], expected.x)


def test_each_result_follows_its_frame(fake_redis: redis.Redis) -> None:
    sums = results(
        fake_redis, as_frames([[(1.0, 1)], [], [(3.0, 1), (0.5, 2)]]), lambda sdf: sdf.x.sum(), crash_after=None
    )
    assert sums == [1.0, 1.0, 4.5]
