"""Rates of a machine from two samples, between which processes start, end or reuse pids."""

import math
import os
import threading
from collections.abc import Iterable
from dataclasses import replace

import pandas as pd
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import codec
from tasks.feeds.host import HostCounters, Machine, ProcessCounters, TotalCounters, read_counters

TOTALS = TotalCounters(busy_seconds=10.0, cpu_seconds=100.0, memory_used=5, memory_total=9, load=0.5)
PROCESS = ProcessCounters(7, "python", 50.0, cpu_seconds=4.0, memory=100, threads=2, read_bytes=1000, written_bytes=0)


def samples(*counters: tuple[float, Iterable[ProcessCounters], TotalCounters]) -> list[tuple[pd.DataFrame, dict]]:
    left = list(counters)

    def read() -> HostCounters:
        _, processes, totals = left.pop(0)
        return list(processes), totals

    machine = Machine(read)
    return [machine.sample(now) for now, _, _ in counters]


def test_rates_are_per_second_since_the_sample_before() -> None:
    later = replace(PROCESS, cpu_seconds=5.0, read_bytes=1500, written_bytes=20, memory=300)
    totals = replace(TOTALS, busy_seconds=11.0, cpu_seconds=104.0, memory_used=6)
    _, (frame, summary) = samples((100.0, [PROCESS], TOTALS), (102.0, [later], totals))
    assert frame.loc[7].to_dict() == {
        "name": "python",
        "cpu_percent": 50.0,
        "memory_bytes": 300,
        "threads": 2,
        "read_bytes_per_s": 250.0,
        "write_bytes_per_s": 10.0,
    }
    assert (summary["cpu_percent"], summary["memory_used_bytes"], summary["processes"]) == (25.0, 6, 1)


def test_the_first_sample_has_no_rates() -> None:
    [(frame, summary)] = samples((100.0, [PROCESS], TOTALS))
    assert frame[["cpu_percent", "read_bytes_per_s", "write_bytes_per_s"]].isna().all(axis=None)
    assert frame.loc[7, "memory_bytes"] == 100
    assert summary["cpu_percent"] is None
    assert summary["memory_total_bytes"] == 9


def test_a_process_that_began_since_has_used_all_it_has_used_since() -> None:
    newcomer = replace(PROCESS, pid=8, created=101.0, cpu_seconds=0.5)
    _, (frame, _) = samples((100.0, [PROCESS], TOTALS), (102.0, [PROCESS, newcomer], TOTALS))
    assert frame.loc[8, "cpu_percent"] == 25.0


def test_a_process_that_was_there_but_not_seen_has_no_rates_yet() -> None:
    _, (frame, _) = samples((100.0, [], TOTALS), (102.0, [PROCESS], TOTALS))
    assert math.isnan(frame.loc[7, "cpu_percent"])


def test_a_pid_used_again_is_another_process() -> None:
    other = replace(PROCESS, name="vim", created=101.0, cpu_seconds=6.0, read_bytes=0)
    _, (frame, _) = samples((100.0, [PROCESS], TOTALS), (102.0, [other], TOTALS))
    assert frame.loc[7, "cpu_percent"] == 300.0, "not the 100 of 6 - 4 seconds"


def test_a_process_that_vanished_is_left_out() -> None:
    _, (frame, _) = samples((100.0, [PROCESS], TOTALS), (102.0, [], TOTALS))
    assert len(frame) == 0
    assert frame.index.name == "pid"


def test_only_counters_that_the_system_hides_are_nan() -> None:
    denied = replace(PROCESS, read_bytes=math.nan, written_bytes=math.nan)
    _, (frame, _) = samples((100.0, [denied], TOTALS), (101.0, [denied], TOTALS))
    assert list(frame.columns[frame.isna().any()]) == ["read_bytes_per_s", "write_bytes_per_s"]


def test_a_clock_set_back_gives_no_rates_instead_of_wrong_ones() -> None:
    _, (frame, summary) = samples((100.0, [PROCESS], TOTALS), (99.0, [PROCESS], TOTALS))
    assert math.isnan(frame.loc[7, "cpu_percent"])
    assert summary["disk_read_bytes_per_s"] is None


COUNTERS = st.floats(0, 1e12) | st.just(math.nan)
PROCESSES = st.lists(
    st.builds(
        ProcessCounters,
        st.integers(1, 3),
        st.text(max_size=3),
        st.sampled_from([1.0, 2.5]),
        COUNTERS,
        COUNTERS,
        COUNTERS,
        COUNTERS,
    ),
    unique_by=lambda process: process.pid,
)


@given(PROCESSES, PROCESSES, st.floats(0, 5))
def test_frame_has_a_row_for_each_process_and_always_the_same_types(
    before: list[ProcessCounters], after: list[ProcessCounters], elapsed: float
) -> None:
    (first, _), (second, _) = samples((2.0, before, TOTALS), (2.0 + elapsed, after, TOTALS))
    assert list(second.index) == [process.pid for process in after]
    assert (first.dtypes == second.dtypes).all()
    assert not (second[["cpu_percent", "read_bytes_per_s", "write_bytes_per_s"]] < 0).any(axis=None)
    assert codec.decode(codec.encode(second)).equals(second)


def test_this_process_is_listed_with_its_usage() -> None:
    machine = Machine()
    machine.sample()
    frame, totals = machine.sample()
    assert frame.loc[os.getpid(), "memory_bytes"] > 10_000_000
    assert frame.loc[os.getpid(), "threads"] >= threading.active_count()
    assert totals["processes"] == len(frame)
    assert 0 < totals["memory_used_bytes"] < totals["memory_total_bytes"]  # type: ignore[operator]


def test_a_process_that_ends_or_hides_while_it_is_read_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def vanish(self: psutil.Process) -> None:
        raise psutil.NoSuchProcess(self.pid)

    def deny(self: psutil.Process) -> None:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "io_counters", deny, raising=False)
    processes, _ = read_counters()
    assert all(math.isnan(process.read_bytes) for process in processes)
    assert any(process.pid == os.getpid() for process in processes)
    monkeypatch.setattr(psutil.Process, "num_threads", vanish)
    assert read_counters()[0] == []
