"""The test kit crashes pipelines at any step, and shows the state that survives."""

import itertools
import operator
from collections.abc import Callable

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks import SettingsError
from tasks.testing import Bench, Pushed, drain, entries

Fresh = Callable[[], redis.Redis]

some = entries(n=st.integers(0, 9))
crashes = st.integers(0, 12), st.integers(0, 4)


def numbers(source: Stream) -> Stream:
    return source.pluck("n")


def total(source: Stream) -> Stream:
    return numbers(source).accumulate(operator.add, start=0, stream_name="total")


@given(some, *crashes)
def test_sum_and_its_results_are_exact_wherever_a_run_is_killed(
    fresh_client: Fresh, pushed: list[Pushed], after: int, unacknowledged: int
) -> None:
    run = drain(total, pushed, into="out", crash_after=after, unacknowledged=unacknowledged, client=fresh_client())
    sums = list(itertools.accumulate(entry["n"] for entry in pushed))
    assert [entry["out"] for entry in run.entries("out")] == sums
    assert run.state == {"total": sums[-1] if sums else 0}
    assert run.acked == pushed


@given(some, *crashes, st.booleans())
def test_exactly_the_unacknowledged_entries_are_processed_twice(
    fresh_client: Fresh, pushed: list[Pushed], after: int, unacknowledged: int, keeps_state: bool
) -> None:
    after = min(after, len(pushed))
    build = total if keeps_state else numbers
    run = drain(build, pushed, crash_after=after, unacknowledged=unacknowledged, client=fresh_client())
    processed = [entry["n"] for entry in pushed]
    once = list(itertools.accumulate(processed)) if keeps_state else processed
    assert run.results == once[:after] + once[max(0, after - unacknowledged) :]


def test_state_is_what_the_last_stored_cut_holds() -> None:
    def build(source: Stream) -> Stream:
        numbers(source).keyed_state(operator.add, key=lambda n: n % 2, start=0, stream_name="by parity").sink(id)
        return total(source)

    with Bench(build) as bench:
        assert bench.state == {}
        bench.push({"n": 1}, {"n": 2}, {"n": 3})
        bench.crash(after=3, unacknowledged=2)
        assert bench.state == {"total": 1, "by parity": {1: (0, 1)}}
        assert bench.pending == [{"n": 2}, {"n": 3}]
        bench.drain()
        assert bench.state == {"total": 6, "by parity": {1: (0, 4), 0: (0, 2)}}


def test_number_of_unacknowledged_entries_is_checked() -> None:
    with Bench(numbers) as bench, pytest.raises(SettingsError, match="unacknowledged: expected a whole number from 0"):
        bench.crash(unacknowledged=-1)
