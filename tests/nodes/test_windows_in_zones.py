"""`time_window` in a zone: windows of days and of hours, where clocks change and at midnight."""

from typing import Any

import pandas as pd
import pytest
import redis
from streamz import Stream

from tasks import Entry
from tasks.nodes import time_window as windows_of_time  # noqa: F401 - registers itself with streamz
from tasks.testing import Bench


@pytest.mark.parametrize(
    ("tz", "day", "hours"),
    [
        ("Asia/Shanghai", "2026-03-08", 24),
        ("America/New_York", "2026-03-08", 23),
        ("America/New_York", "2026-11-01", 25),
    ],
)
def test_window_of_a_day_is_one_of_the_zone(client: redis.Redis, tz: str, day: str, hours: int) -> None:
    midnight = pd.Timestamp(day, tz=tz)
    stamps = [midnight - pd.Timedelta("1ms"), midnight, midnight + pd.Timedelta(hours=hours) - pd.Timedelta("1ms")]
    stamps += [midnight + pd.Timedelta(hours=hours)]

    def counted(source: Stream) -> Any:
        return source.time_window("1d", tz=tz).agg(n=("n", "count"))  # type: ignore[attr-defined]

    with Bench(counted, client=client) as bench:
        bench.push(*(Entry({"n": 1}, topic="topic", id=f"{stamp.value // 10**6}-0") for stamp in stamps))
        bench.drain()
        assert [one["n"] for one in bench.results] == [1, 2, 1]
        assert bench.results[1]["start"] == midnight
        assert pd.Timestamp(bench.results[1]["end"]) == midnight + pd.Timedelta(hours=hours)


@pytest.mark.parametrize(
    ("tz", "day", "numbers"),
    [
        ("Asia/Shanghai", "2026-11-01", [12, 12, 12, 12]),
        ("America/New_York", "2026-03-08", [12, 12, 12, 10]),
        ("America/New_York", "2026-11-01", [12, 12, 12, 12, 2]),
    ],
)
def test_windows_of_six_hours_begin_anew_at_midnight_of_the_zone(
    client: redis.Redis, tz: str, day: str, numbers: list[int]
) -> None:
    midnight = pd.Timestamp(day, tz=tz)
    stamps = pd.date_range(midnight, midnight + pd.DateOffset(days=1), freq="30min")  # with the next midnight

    def counted(source: Stream) -> Any:
        return source.time_window("6h", tz=tz).agg(n=("n", "count"))  # type: ignore[attr-defined]

    with Bench(counted, client=client) as bench:
        bench.push(*(Entry({"n": 1}, topic="topic", id=f"{stamp.value // 10**6}-0") for stamp in stamps))
        bench.drain()
        assert [one["n"] for one in bench.results] == [*numbers, 1]
        assert pd.Timestamp(bench.results[len(numbers)]["start"]) == midnight + pd.DateOffset(days=1)


@pytest.mark.parametrize("of_frames", [False, True], ids=["entries", "frames"])
def test_local_times_of_the_hour_that_clocks_repeat_are_in_windows(client: redis.Redis, *, of_frames: bool) -> None:
    """A source that writes local times without a zone writes this hour twice, which must not cost entries or frames."""

    def counted(source: Stream) -> Any:
        rows: Any = source.pluck("rows").map(pd.DataFrame) if of_frames else source.pluck("rows").flatten()
        windows = rows.time_window("1h", by="when", tz="America/New_York", lateness="2h").agg(n=("n", "count"))
        return windows.map(lambda one: one.to_dict("records")).flatten() if of_frames else windows

    written = ["2026-11-01 00:30", "2026-11-01 01:30", "2026-11-01 01:30", "2026-11-01 02:30"]
    appended = pd.Timestamp("2026-11-01 02:30", tz="America/New_York").value // 10**6
    with Bench(counted, client=client) as bench:
        rows = [{"when": when, "n": 1} for when in written]
        bench.push(Entry({"rows": rows}, topic="topic", id=f"{appended}-0"))
        bench.drain()
        assert [(f"{one['start']:%H:%M %z}", one["n"]) for one in bench.results] == [
            ("00:00 -0400", 1), ("01:00 -0400", 2), ("02:00 -0500", 1),
        ]  # fmt: skip
        assert bench.dead == []


def test_last_window_before_midnight_is_shorter_and_nothing_in_it_is_late(client: redis.Redis) -> None:
    """A day is no multiple of seven minutes, so the windows of the next day begin at other minutes of the hour."""

    def counted(source: Stream) -> Any:
        return source.time_window("7min", tz="Asia/Shanghai", close_after=None).agg(n=("n", "count"))  # type: ignore[attr-defined]

    midnight = pd.Timestamp("2026-11-02", tz="Asia/Shanghai")
    seconds = [-301, -300, -1, -0.001, 0, 419, 420]
    with Bench(counted, client=client) as bench:
        stamps = [midnight + pd.Timedelta(seconds=n) for n in seconds]
        bench.push(*(Entry({"n": 1}, topic="topic", id=f"{stamp.value // 10**6}-0") for stamp in stamps))
        bench.drain()
        assert [(f"{one['start']:%H:%M}", f"{one['end']:%H:%M}", one["n"]) for one in bench.results] == [
            ("23:48", "23:55", 1), ("23:55", "00:00", 3), ("00:00", "00:07", 2),
        ]  # fmt: skip
        assert bench.dead == []
