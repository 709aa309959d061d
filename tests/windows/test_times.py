"""Event times of the rows of a frame: those of single values, also where clocks change."""

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.windows.times import times_of_rows, value_time

# Clocks go forward and back by an hour, by half an hour, and at midnight; the last has had no change since 1991.
CHANGES = {
    "America/New_York": ["2026-03-08 02:00", "2026-11-01 01:00"],
    "Australia/Lord_Howe": ["2026-10-04 02:00", "2026-04-05 01:30"],
    "America/Santiago": ["2026-09-06 00:00", "2026-04-04 23:00"],
    "Asia/Shanghai": ["2026-03-08 00:00", "2026-11-01 00:00"],
}


@pytest.mark.parametrize("zone", CHANGES)
@given(data=st.data(), unit=st.sampled_from(["ns", "us", "ms"]))
def test_rows_have_the_times_of_single_values_where_clocks_change(data: st.DataObject, zone: str, unit: str) -> None:
    seconds = st.integers(-2 * 3600, 2 * 3600)
    around = st.builds(
        lambda change, n: pd.Timestamp(change) + pd.Timedelta(seconds=n), st.sampled_from(CHANGES[zone]), seconds
    )
    local = data.draw(st.lists(around, min_size=1, max_size=8))
    found = times_of_rows(pd.Series(local).astype(f"datetime64[{unit}]"), ZoneInfo(zone))
    assert found.dtype == np.dtype("int64")
    assert found.tolist() == [value_time(one, ZoneInfo(zone)) for one in local]
    assert found.tolist() == times_of_rows(pd.Series([f"{one}" for one in local]), ZoneInfo(zone)).tolist()


@pytest.mark.parametrize(
    ("local", "utc"),
    [("2026-11-01 01:30", "2026-11-01 05:30"), ("2026-03-08 02:30", "2026-03-08 07:30")],
    ids=["the first of two", "as if clocks had not changed yet"],
)
def test_local_time_that_comes_twice_or_never_is(local: str, utc: str) -> None:
    at = value_time(local, ZoneInfo("America/New_York"))
    assert at == pd.Timestamp(utc, tz="UTC").value // 10**6


def test_fold_chooses_the_second_of_two_times() -> None:
    zone = ZoneInfo("America/New_York")
    first, second = (value_time(dt.datetime(2026, 11, 1, 1, 30, fold=n), zone) for n in (0, 1))
    assert second - first == 3_600_000
