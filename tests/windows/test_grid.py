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


ZONES = ["Asia/Shanghai", "America/New_York", "Asia/Kolkata", "America/Santiago", "Pacific/Apia"]


@pytest.mark.parametrize("zone", ZONES)
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


@pytest.mark.parametrize("zone", ZONES)
@given(time=MOMENTS, size=st.integers(1, 5), every=st.integers(1, 5))
def test_overlapping_windows_of_days_begin_and_end_at_midnight(zone: str, time: int, size: int, every: int) -> None:
    every = min(size, every)
    grid = Grid(size * DAY, every * DAY, ZoneInfo(zone))
    day = pd.Timestamp(time, unit="ms", tz=zone).date().toordinal() - EPOCH_DAY
    first = [one for one in range(day, day - size, -1) if one % every == 0]
    assert grid.starts(time) == [midnight(one, zone) for one in first]
    assert [grid.end(start) for start in grid.starts(time)] == [midnight(one + size, zone) for one in first]


EPOCH_DAY = pd.Timestamp(0).date().toordinal()


def midnight(day: int, zone: str) -> int:
    """Return the first moment of a day that is so many days after 1970-01-01, in ms, by pandas."""
    local = pd.Timestamp(0) + pd.Timedelta(days=day)
    return local.tz_localize(zone, ambiguous=True, nonexistent="shift_forward").value // 10**6


@pytest.mark.parametrize("zone", ZONES)
@given(time=MOMENTS, hours=st.integers(1, 30), every=st.integers(1, 24))
def test_overlapping_windows_in_a_zone_are_all_that_contain_a_time(
    zone: str, time: int, hours: int, every: int
) -> None:
    hours, hour = max(hours, every), 3_600_000
    grid = Grid(hours * hour, every * hour, ZoneInfo(zone))
    day = pd.Timestamp(time, unit="ms", tz=zone).date().toordinal() - EPOCH_DAY
    begins = [
        start
        for one in range(day - 3, day + 2)
        for start in range(midnight(one, zone), midnight(one + 1, zone), every * hour)
    ]
    starts = grid.starts(time)
    assert starts == [start for start in reversed(begins) if start <= time < grid.end(start)]
    assert time in range(starts[0], grid.end(starts[0]))


@pytest.mark.parametrize("zone", [None, *ZONES])
@given(
    start=MOMENTS,
    quarters=st.lists(st.integers(-12, 36), max_size=60),
    size=st.sampled_from([900_000, 3_600_000, 5 * 3_600_000, DAY, 3 * DAY]),
)
def test_windows_of_a_time_do_not_depend_on_the_times_before(
    zone: str | None, start: int, quarters: list[int], size: int
) -> None:
    in_zone = zone and ZoneInfo(zone)
    grid, time = Grid(size, zone=in_zone), start - start % 900_000  # a beginning of windows
    for step in quarters:
        time += step * 900_000
        assert grid.starts(time) == Grid(size, zone=in_zone).starts(time)
