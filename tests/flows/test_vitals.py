"""Vitals in, the busiest processes out."""

import math
import os

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.vitals import add_cpu_time, busiest, most_used, vitals
from tasks import codec
from tasks.testing import drain, pumped

COLUMNS = ["name", "cpu_percent", "memory_bytes", "threads", "read_bytes_per_s", "write_bytes_per_s"]


def frame(*rows: tuple[int, str, float, float]) -> pd.DataFrame:
    columns = ["pid", "name", "cpu_percent", "memory_bytes"]
    made = pd.DataFrame(rows, columns=columns).astype(
        dict(zip(columns, ["int64", "str", "float64", "float64"], strict=True))
    )
    return made.assign(threads=1.0, read_bytes_per_s=0.0, write_bytes_per_s=math.nan).set_index("pid")


def test_a_pump_returns_processes_and_totals_of_this_machine_with_rates_at_once() -> None:
    [entry] = pumped(vitals.pump)
    assert set(entry) == {"vitals", "totals"}
    assert list(entry["vitals"].columns) == COLUMNS
    assert entry["vitals"].loc[os.getpid(), "cpu_percent"] >= 0
    assert entry["totals"]["memory_used_bytes"] > 0


def test_the_busiest_are_those_of_the_last_five_snapshots() -> None:
    names = ["old"] + ["new"] * 5
    pushed = [{"vitals": frame((n, name, 900.0 if name == "old" else n, 1))} for n, name in enumerate(names)]
    run = drain(busiest.build, pushed, top=1, into="busiest")
    assert [result["name"].item() for result in run.results] == ["old"] * 5 + ["new"]
    assert all(entry["busiest"].equals(r) for entry, r in zip(run.entries("busiest"), run.results, strict=True))
    assert run.pending == [], "the window's snapshots are stored with the sums"


def test_cpu_seconds_of_a_name_add_up_over_a_crash() -> None:
    pushed = [{"vitals": frame((n, "a", 50.0, 1), (100 + n, "b", math.nan, 1))} for n in range(6)]
    for crash_after in (None, 1, 4):
        run = drain(busiest.build, pushed, crash_after=crash_after, into="busiest")
        sums = [entry["busiest"].groupby("name")["cpu_seconds"].max() for entry in run.entries("busiest")]
        assert [one["a"] for one in sums] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
        assert sums[-1]["b"] == 0.0


def test_the_smallest_sums_of_too_many_names_are_dropped() -> None:
    rows = [(n, f"name {n}", float(n), 1.0) for n in range(1_001)]
    sums, _ = add_cpu_time({}, frame(*rows))
    assert (len(sums), "name 0" in sums, sums["name 1000"]) == (1_000, False, 10.0)


def test_other_entries_of_the_topic_are_passed_over() -> None:
    run = drain(busiest.build, [{"totals": {}}])
    assert (run.results, run.acked) == ([], [{"totals": {}}])


def test_snapshots_without_rates_do_not_count_in_the_mean() -> None:
    result = most_used((frame((1, "a", math.nan, 5)), frame((1, "a", 30.0, 4)), frame((1, "a", 60.0, 3))), 10)
    assert result.loc[1, "cpu_percent"] == 45.0
    assert result.loc[1, "memory_bytes"] == 5.0
    assert math.isnan(result.loc[1, "write_bytes_per_s"])


def test_a_process_that_was_there_for_one_snapshot_used_nothing_in_the_others() -> None:
    result = most_used((frame((1, "a", 30.0, 1)), frame((1, "a", 30.0, 1), (2, "b", 50.0, 1))), 10)
    assert result["cpu_percent"].to_dict() == {1: 30.0, 2: 25.0}


ROWS = st.lists(st.tuples(st.integers(1, 4), st.sampled_from("ab"), st.floats(0, 800), st.floats(1, 1e9)), max_size=6)


@given(st.lists(ROWS, min_size=1, max_size=5), st.integers(1, 5))
def test_the_result_is_the_top_of_a_model(snapshots: list[list], top: int) -> None:
    unique = [list({row[0]: row for row in rows}.values()) for rows in snapshots]
    known = sum(bool(rows) for rows in unique) or 1
    used: dict[tuple[int, str], float] = {}
    for rows in unique:
        for pid, name, cpu, _ in rows:
            used[pid, name] = used.get((pid, name), 0.0) + cpu
    wanted = sorted((total / known for total in used.values()), reverse=True)[:top]
    result = most_used(tuple(frame(*rows) for rows in unique), top)
    assert list(result["cpu_percent"]) == pytest.approx(wanted)  # the model adds up in another order
    assert list(result.columns) == COLUMNS
    assert codec.decode(codec.encode(result)).equals(result)
