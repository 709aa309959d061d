"""Bounds of windows: those of pandas, also where clocks change."""

from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.windows.grid import Grid

DAY = 86_400_000
MOMENTS = st.integers(pd.Timestamp("2020-01-01").value // 10**6, pd.Timestamp("2030-01-01").value // 10**6)


@given(time=MOMENTS, size=st.sampled_from([1000, 60_000, 3_600_000, 5 * DAY, 7777]), parts=st.integers(1, 4))
def test_windows_without_a_zone_are_multiples_since_the_epoch(time: int, size: int, parts: int) -> None:
    every = -(-size // parts)
    starts = Grid(size, every).starts(time)
    assert starts == [
        start for start in range(time // every * every, time - size, -every) if start <= time < start + size
    ]


@pytest.mark.parametrize(
    "zone", ["Asia/Shanghai", "America/New_York", "Asia/Kolkata", "America/Santiago", "Pacific/Apia"]
)
@given(time=MOMENTS, size=st.sampled_from([DAY, 3_600_000, 6 * 3_600_000, 900_000]))
def test_windows_in_a_zone_begin_at_its_midnight(zone: str, time: int, size: int) -> None:
    grid = Grid(size, zone=ZoneInfo(zone))
    start = grid.start(time)
    end = grid.end(start)
    local = pd.Timestamp(time, unit="ms", tz=zone)
    assert start <= time < end
    day = pd.Timestamp(start, unit="ms", tz=zone).date()
    assert day == local.date()
    if size == DAY:
        assert pd.Timestamp(start - 1, unit="ms", tz=zone).date() < day < pd.Timestamp(end, unit="ms", tz=zone).date()
    else:
        assert (grid.start(end), grid.start(end - 1), end - start <= size) == (end, start, True)
