"""A pump on its grid, on a simulated clock."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tasks import PumpError, SettingsError
from tasks.pump.returned import Entries, as_entries
from tasks.pump.run import RESTING, PumpRun
from tests.support.pumps import Clock, Gate, ending_all, pumping, pushed, run_until, settle
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def end_all() -> Iterator[None]:
    with ending_all():
        yield


frame = pd.DataFrame({"a": [1]})


@pytest.mark.parametrize(
    ("value", "entries"),
    [
        (None, []),
        ({"a": 1}, [{"a": 1}]),
        ([], []),
        ([{"a": 1}, {"b": 2}], [{"a": 1}, {"b": 2}]),
        (({"a": n} for n in range(2)), [{"a": 0}, {"a": 1}]),
    ],
)
def test_allowed_return_values_become_entries(value: Any, entries: list[dict[str, Any]]) -> None:
    assert as_entries(value, name="pump") == entries


def test_a_frame_is_an_entry_with_one_field_named_after_the_pump() -> None:
    assert [list(entry) for entry in as_entries([frame, {"x": frame}], name="pump")] == [["pump"], ["x"]]


@pytest.mark.parametrize("value", [1, "text", b"bytes", [1], [None], [["a"]], object()])
def test_other_values_are_refused_with_the_types_to_return(value: Any) -> None:
    with pytest.raises(PumpError, match=r"pump 'pump': expected a mapping .* nothing was pushed; return"):
        as_entries(value, name="pump")


def test_a_pump_that_takes_time_makes_no_later_tick_late(client: redis.Redis) -> None:
    clock, began = Clock(), []

    def pump() -> dict[str, int]:
        began.append(clock.now)
        clock.now += 0.3
        return {"n": len(began)}

    run_until(pumping(client, pump, clock), clock, 1010.5)
    assert [round(at, 3) for at in began] == [float(1001 + n) for n in range(10)]
    assert pushed(client) == list(range(1, 11))


def test_pump_that_takes_longer_than_a_tick_misses_and_counts_ticks(client: redis.Redis) -> None:
    clock = Clock()

    def pump() -> dict[str, float]:
        at, clock.now = clock.now, clock.now + 2.5
        return {"n": at}

    one = pumping(client, pump, clock)
    run_until(one, clock, 1010.9)
    # Tick 1001 ends at 1003.5: 1002 has gone by, 1003 is current and starts late, and so on.
    assert pushed(client) == [1001.0, 1003.5, 1006.0, 1008.5]
    assert (one.summary.due, one.summary.missed) == (8, 4)


@given(order=st.permutations(range(5)))
def test_pumps_that_run_at_once_are_pushed_in_tick_order_whichever_ends_first(
    fresh_client: Callable[[], redis.Redis], order: list[int]
) -> None:
    client, clock, gate = fresh_client(), Clock(), Gate()
    one = pumping(client, gate.pump, clock, threads=5)
    for tick in range(5):
        clock.now = 1001.0 + tick
        one.step()
        assert gate.started.acquire(timeout=10)
    for mine in order:
        gate.gates[mine].set()
    one._stop.set()
    finish(one)
    assert pushed(client) == [0, 1, 2, 3, 4]


def finish(one: PumpRun) -> None:
    done = threading.Event()
    while (wait := one.step()) is not None:
        done.wait(wait)


def test_a_tick_that_finds_no_free_thread_is_missed_and_never_queued(client: redis.Redis) -> None:
    clock, gate = Clock(), Gate()
    one = pumping(client, gate.pump, clock, threads=2)
    for tick in range(5):
        clock.now = 1001.0 + tick
        one.step()
    gate.started.acquire(timeout=10)
    gate.started.acquire(timeout=10)
    for event in gate.gates:
        event.set()
    one._stop.set()
    finish(one)
    assert (one.summary.pushed, one.summary.missed) == (2, 3)


@given(st.lists(st.sampled_from([None, [], {"n": 1}, ValueError()]), min_size=1, max_size=9))
def test_every_tick_that_is_due_is_in_one_of_the_counts(
    fresh_client: Callable[[], redis.Redis], returned: list[Any]
) -> None:
    clock, left = Clock(), list(returned)

    def pump() -> Any:
        if isinstance(value := left.pop(0), ValueError):
            raise value
        return value

    one = pumping(fresh_client(), pump, clock)
    run_until(one, clock, 1000.5 + len(returned))
    summary = one.summary
    pushed, failed = returned.count({"n": 1}), sum(isinstance(value, ValueError) for value in returned)
    assert (summary.due, summary.missed, summary.lost) == (len(returned), 0, 0)
    assert (summary.pushed, summary.failed) == (pushed, failed)
    assert summary.nothing == len(returned) - pushed - failed
    assert f", {summary.nothing} with nothing to push, 0 missed" in str(summary)
    assert f"| with nothing to push | {summary.nothing} |" in summary.markdown()
    assert summary.had_nothing == (not pushed and not failed)


def test_pump_that_exceeds_its_timeout_fails_its_tick_and_keeps_the_order(client: redis.Redis) -> None:
    clock, gate = Clock(), Gate()
    one = pumping(client, gate.pump, clock, threads=1, timeout=0.5)
    clock.now = 1001.0
    one.step()
    assert gate.started.acquire(timeout=10)
    clock.now = 1001.6
    one.step()
    settle(one)
    assert one.summary.failed == 1
    clock.now = 1002.0
    one.step()
    assert gate.started.acquire(timeout=10)
    gate.gates[0].set()  # the call that timed out ends after all: its entries are not pushed
    gate.gates[1].set()
    one._stop.set()
    finish(one)
    assert pushed(client) == [1]


@pytest.mark.parametrize("refusal", [None, redis.ResponseError("WRONGTYPE")])
def test_a_pump_that_hangs_on_a_tick_of_another_run_is_timed_out_too(
    client: redis.Redis, refusal: Exception | None
) -> None:
    clock, gate, answer = Clock(), Gate(), threading.Event()
    one = pumping(client, gate.pump, clock, every=0.25, threads=1, timeout=0.5)
    claim = one._beat.claim

    def late(tick: int, **options: Any) -> str:
        one._beat.claim = claim
        answer.wait(10)
        if refusal is not None:
            raise refusal
        return "taken"

    one._beat.claim = late  # type: ignore[method-assign]
    clock.now = 1000.25
    one.step()
    assert gate.started.acquire(timeout=10)
    answer.set()
    wait_until(lambda: not one._handover.jobs, "the answer")
    clock.now = 1000.5
    one.step()
    wait_until(lambda: one.summary.reasons["all 1 threads were busy"] == 1, "the tick to be missed")
    clock.now = 1001.0
    one.step()
    assert gate.started.acquire(timeout=1)
    gate.gates[0].set()
    gate.gates[1].set()
    one._stop.set()
    finish(one)
    assert pushed(client) == [1]


@given(fails=st.lists(st.booleans(), min_size=1, max_size=30))
def test_a_pump_that_raises_costs_its_own_tick_only(fresh_client: Callable[[], redis.Redis], fails: list[bool]) -> None:
    client, clock, calls = fresh_client(), Clock(), []

    def pump() -> dict[str, int]:
        calls.append(None)
        if fails[len(calls) - 1]:
            raise ValueError
        return {"n": len(calls) - 1}

    one = pumping(client, pump, clock, max_failures=100)
    run_until(one, clock, 1000.5 + len(fails))
    assert pushed(client) == [n for n, fail in enumerate(fails) if not fail]
    assert one.summary.failed == sum(fails)


def no_network() -> None:
    msg = "no network"
    raise OSError(msg)


def test_a_run_with_when_failing_fail_ends_after_max_failures_in_a_row(client: redis.Redis) -> None:
    clock = Clock()
    one = pumping(client, no_network, clock, max_failures=3, when_failing="fail")
    with pytest.raises(PumpError, match="failed 3 times in a row, at last with OSError: no network"):
        run_until(one, clock, 1010.0)
    assert one.summary.failed == 3


def test_a_failing_pump_is_called_ever_less_often_and_every_tick_is_counted(client: redis.Redis) -> None:
    clock, calls = Clock(), []

    def pump() -> None:
        calls.append(int(clock.now) - 1000)
        no_network()

    one = pumping(client, pump, clock, max_failures=3)
    run_until(one, clock, 1100.5)
    assert calls == [1, 2, 3, 5, 9, 17, 33, 63, 93]
    assert one.summary.due == 100
    assert (one.summary.failed, one.summary.reasons) == (9, {RESTING: 91})


def test_a_pump_that_works_again_is_called_at_every_tick_again(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()

    def pump() -> dict[str, float]:
        if clock.now < 1020:
            no_network()
        return {"n": clock.now}

    one = pumping(client, pump, clock, max_failures=3, window=40.0)
    run_until(one, clock, 1040.5)
    one.check()
    assert pushed(client) == [1033.0, *map(float, range(1034, 1040))]
    assert one.summary.due == 39 == one.summary.pushed + one.summary.failed + one.summary.missed
    assert "pump 'pump' failed 3 times in a row, at last with OSError: no network; it is called less" in caplog.text
    assert "pump 'pump' works again, after 6 failed ticks" in caplog.text


@pytest.mark.parametrize(("window", "pushes", "fails"), [(3.5, False, True), (2.5, False, False), (6.5, True, False)])
def test_a_run_fails_at_its_end_if_it_failed_too_often_and_pushed_nothing(
    client: redis.Redis, window: float, *, pushes: bool, fails: bool
) -> None:
    clock = Clock()

    def pump() -> dict[str, int]:
        if not pushes or clock.now < 1005:
            no_network()
        return {"n": 1}

    one = pumping(client, pump, clock, max_failures=3, window=window)
    run_until(one, clock, 1100.0)
    assert one.step() is None
    if fails:
        with pytest.raises(PumpError, match="pushed nothing .* of 3 ticks 3 failed and 0 .* OSError: no network"):
            one.check()
    else:
        one.check()


def test_a_run_that_is_stopped_has_not_failed(client: redis.Redis) -> None:
    clock = Clock()
    one = pumping(client, no_network, clock, max_failures=1)
    run_until(one, clock, 1002.5)
    one.stop()
    assert one.step() is None
    one.check()


@pytest.mark.parametrize("threads", [0, 1])
def test_a_pump_that_exits_costs_its_own_tick_only(client: redis.Redis, threads: int) -> None:
    clock, calls = Clock(), []

    def pump() -> dict[str, int]:
        calls.append(None)
        if len(calls) == 2:
            raise SystemExit
        return {"n": len(calls)}

    one = pumping(client, pump, clock, threads=threads)
    for clock.now in (1001.0, 1002.0, 1003.0):
        one.step()
        wait_until(lambda: not one._handover.jobs, "the pump")
    assert pushed(client) == [1, 3]
    assert one.summary.failed == 1


def test_a_beat_that_redis_has_lost_is_taken_up_again(client: redis.Redis) -> None:
    clock = Clock()
    one = pumping(client, lambda: {"n": clock.now}, clock)
    run_until(one, clock, 1002.5)
    client.flushall()
    run_until(one, clock, 1006.5)
    assert pushed(client) == [1003.0, 1004.0, 1005.0, 1006.0]


def test_a_value_that_cannot_be_encoded_is_a_failed_tick_and_pushes_nothing(client: redis.Redis) -> None:
    clock = Clock()
    one = pumping(client, lambda: [{"n": 1}, {"n": object()}], clock)
    run_until(one, clock, 1001.5)
    assert one.summary.failed == 1
    assert client.exists("topic") == 0


def test_run_without_a_successor_ends_with_its_window(client: redis.Redis) -> None:
    clock = Clock()
    one = pumping(client, lambda: {"n": 1}, clock, window=3.5)
    run_until(one, clock, 1100.0)
    assert clock.now == pytest.approx(1003.5, abs=0.01)
    assert pushed(client) == [1, 1, 1]


def test_a_run_that_is_relieved_ends_when_its_successor_begins(client: redis.Redis) -> None:
    clock = Clock()
    old = pumping(client, lambda: {"n": "old"}, clock)
    run_until(old, clock, 1002.1)
    clock.now = 1002.5
    new = pumping(client, lambda: {"n": "new"}, clock)
    for clock.now in (1003.0, 1004.0, 1005.0):
        new.step()
        old.step()
        settle(new)
    assert pushed(client) == ["old", "old", "new", "new", "new"]
    assert old.step() is None


def test_a_tick_that_settles_while_its_run_closes_is_counted_once(client: redis.Redis) -> None:
    clock, emitting, may_end = Clock(), threading.Event(), threading.Event()

    def emit(ids: list[str], entries: Entries) -> None:
        emitting.set()
        assert may_end.wait(20)

    one = pumping(client, lambda: {"n": 1}, clock, on_pushed=emit)
    clock.now = 1001.0
    one.step()
    assert emitting.wait(20)
    closing = threading.Thread(target=one.close)
    closing.start()
    wait_until(lambda: not one._handover.jobs, "the run to close")
    may_end.set()
    closing.join(20)
    assert (one.summary.due, one.summary.pushed, one.summary.missed) == (1, 1, 0)


def test_a_timeout_without_threads_is_refused(client: redis.Redis) -> None:
    with pytest.raises(SettingsError, match="set threads to 1 or more"):
        pumping(client, lambda: None, Clock(), timeout=1.0)
