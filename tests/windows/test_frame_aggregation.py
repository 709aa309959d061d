"""Aggregations of frames part by part: equal to pandas' over all rows at once."""

from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.windows.aggregation import Kind, aggregations
from tasks.windows.frame_aggregation import Table, added, finished, reduced

COLUMNS: dict[str, Any] = {
    "float64": (st.sampled_from([1.5, -2.0, np.nan]), get_args(Kind)),
    "int64": (st.integers(-3, 3), get_args(Kind)),
    "Int64": (st.integers(-3, 3) | st.none(), get_args(Kind)),
    "object": (st.sampled_from(["a", "b", None]), ("first", "last", "count")),
    "str": (st.sampled_from(["a", "b", None]), ("first", "last", "max", "min", "count")),
    "datetime64[ns, UTC]": (
        st.sampled_from([pd.Timestamp(5, tz="UTC"), pd.NaT]),
        ("first", "last", "max", "min", "count"),
    ),
}


@pytest.mark.parametrize("dtype", COLUMNS)
@pytest.mark.parametrize("keys", [["key"], ["key", "other"], []])
@given(data=st.data())
def test_frames_in_parts_are_aggregated_as_all_rows_at_once(data: st.DataObject, dtype: str, keys: list[str]) -> None:
    values, kinds = COLUMNS[dtype]
    row = st.tuples(st.sampled_from("xyz"), st.integers(0, 1), st.integers(0, 5), values)
    rows = data.draw(st.lists(row, min_size=1, max_size=12))
    whole = pd.DataFrame(rows, columns=["key", "other", "time", "value"])
    whole["value"] = pd.array([one[3] for one in rows], dtype=dtype)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(rows) - 1)), max_size=3)))
    wanted = aggregations({kind: ("value", kind) for kind in kinds})
    table: Table | None = None
    for first, last in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        if len(part := whole.iloc[first:last]):
            table = added(table, reduced(part, keys, part["time"].to_numpy(), wanted), wanted)
            table = Table.of_frame(table.as_frame()) if data.draw(st.booleans()) else table
    assert table is not None
    found = finished(table, wanted)
    ordered = whole.sort_values("time", kind="stable")
    by = keys or np.zeros(len(whole), dtype="int64")
    expected = ordered.groupby(by, dropna=False)["value"].agg([*kinds])  # type: ignore[arg-type]
    assert found.sort_index().index.equals(expected.index)
    for kind in kinds:
        assert as_list(found.sort_index()[kind]) == as_list(expected[kind]), kind


def as_list(values: Any) -> list[Any]:
    return [None if pd.isna(one) else one for one in values]
