"""Clocks that step, or differ between machines and Redis, duplicate no tick, and every missed tick is counted."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tasks import Reservoir
from tasks.pump import ticks
from tasks.pump.run import PumpRun
from tasks.pump.ticks import MAX_AHEAD, Beat
from tests.support.pumps import Clock, ending_all, pumping, pushed, run_until
from tests.support.waiting import wait_until

BEHIND = "later ones are claimed, as the clock stepped back or another machine's is ahead"
AHEAD = "this machine's clock is too far ahead of Redis'"


@pytest.fixture(autouse=True)
def end_all() -> Iterator[None]:
    with ending_all():
        yield


def telling(clock: Clock) -> Callable[[], Any]:
    """Return a pump that returns the time of the test's clock."""
    return lambda: {"n": clock.now}


def beat(client: redis.Redis) -> Beat:
    return Beat(Reservoir(client), "topic", "pump", every=1.0)


def test_a_run_behind_a_fast_clock_counts_missed_ticks_logs_the_gap_and_resumes(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    other, clock = beat(client), Clock(1000.0)
    other.start(1050.0)
    assert other.claim(1060) == "claimed"
    other.done(1060, pushed=False)
    one = pumping(client, telling(clock), clock)
    run_until(one, clock, 1063.5)
    assert pushed(client) == [1061.0, 1062.0, 1063.0]
    # The last two are no more than clocks that agree may differ by.
    assert one.summary.reasons == {BEHIND: 57}
    assert one.summary.due == 57 + 3
    assert f"{BEHIND}, at last it is 59 s behind" in caplog.text
    assert caplog.text.count(BEHIND) == 1


def test_clock_that_steps_back_repeats_no_tick_and_counts_missed_ones(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(1000.0)
    one = pumping(client, telling(clock), clock)
    run_until(one, clock, 1003.5)
    clock.now = 900.0
    run_until(one, clock, 1005.5)
    assert pushed(client) == [1001.0, 1002.0, 1003.0, 1004.0, 1005.0]
    assert one.summary.reasons == {BEHIND: 103}
    assert caplog.text.count(BEHIND) == 1


def test_a_tick_under_way_is_not_pumped_again_after_a_step_back(client: redis.Redis) -> None:
    clock, calls = Clock(1000.0), []

    def pump() -> dict[str, int]:
        calls.append(None)
        if len(calls) == 1:
            clock.now = 990.0
        return {"n": len(calls)}

    one = pumping(client, pump, clock)
    run_until(one, clock, 1002.5)
    assert pushed(client) == [1, 2]


@given(moves=st.lists(st.floats(-40, 40) | st.just(0.0), max_size=8))
def test_clock_steps_duplicate_and_reorder_no_tick_and_every_due_tick_is_counted(
    fresh_client: Callable[[], redis.Redis], moves: list[float]
) -> None:
    client, clock = fresh_client(), Clock(1000.0)
    one = pumping(client, lambda: {"n": int(clock.now)}, clock, timer=Clock())
    for move in moves:
        clock.now += move
        run_until(one, clock, clock.now + 3)
    ticks_pushed = pushed(client)
    assert ticks_pushed == sorted(set(ticks_pushed))
    assert one.summary.due == one.summary.pushed + one.summary.missed == len(ticks_pushed) + one.summary.missed
    one.close()


def test_a_step_forward_ends_no_run_and_the_ticks_in_between_are_missed(client: redis.Redis) -> None:
    clock = Clock(1000.0)
    one = pumping(client, telling(clock), clock, timer=Clock(), window=100.0)
    for clock.now in (1001.0, 1002.0, 4603.0):
        run_until(one, clock, clock.now + 0.5)
    assert pushed(client) == [1001.0, 1002.0, 4603.0]
    assert one.summary.reasons == {"the run came too late": 3600}


def test_a_step_forward_times_no_pump_out(client: redis.Redis) -> None:
    clock, gate = Clock(1000.0), threading.Event()
    one = pumping(client, lambda: {"n": gate.wait(20)}, clock, timer=Clock(), threads=1, timeout=5.0)
    for clock.now in (1001.0, 4601.0):
        one.step()
    gate.set()
    wait_until(lambda: not one._handover.jobs, "the push")
    assert pushed(client) == [True]
    assert one.summary.failed == 0


def test_a_step_back_prolongs_no_run(client: redis.Redis) -> None:
    clock, timer = Clock(1000.0), Clock()
    one = pumping(client, telling(clock), clock, timer=timer, window=100.0)
    clock.now -= 3600
    timer.now += 101
    assert one.step() is None


def test_a_clock_far_ahead_of_redis_gets_no_tick_logs_it_and_delays_no_other_run(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    now = float(int(time.time()))
    ahead, right = Clock(now + MAX_AHEAD + 60), Clock(now)
    wrong = pumping(client, lambda: {"n": "wrong"}, ahead)
    run_until(wrong, ahead, ahead.now + 3.5)
    assert wrong.summary.reasons == {AHEAD: 3}
    assert wrong.summary.due == 3
    assert caplog.text.count(AHEAD) == 1
    run_until(pumping(client, lambda: {"n": "right"}, right), right, now + 3.5)
    assert pushed(client) == ["right"] * 3


def test_a_clock_ahead_of_redis_by_less_pumps(client: redis.Redis) -> None:
    clock = Clock(time.time() + MAX_AHEAD - 60)
    one = pumping(client, telling(clock), clock)
    run_until(one, clock, clock.now + 3)
    assert one.summary.pushed == 3


@pytest.mark.parametrize(("off", "words"), [(50.0, "50.0 s ahead of"), (-50.0, "50.0 s behind"), (0.0, "")])
def test_a_clock_difference_is_measured_at_the_start_logged_and_reported(
    client: redis.Redis, caplog: pytest.LogCaptureFixture, off: float, words: str
) -> None:
    one = PumpRun(lambda: None, name="pump", beat=beat(client), clock=lambda: time.time() + off)
    with caplog.at_level(logging.WARNING):
        one.begin()
    one.close()
    assert one.summary.skew == pytest.approx(off, abs=0.5)
    assert f"| clock ahead of Redis' by | {off:.1f} s |" in one.summary.markdown().replace("-0.0", "0.0")
    assert (f"this machine's clock is {words} Redis'" in caplog.text) == bool(words)


def test_a_slow_reply_is_not_taken_for_a_clock_that_is_off(
    fake_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = beat(fake_redis)
    one._start = lambda **_: (b"1", b"1030000000")  # Redis looked 30 s after the question ...
    took = iter([0.0, 60.0, 0.0, 60.0])  # ... and its answer came 30 s later
    monkeypatch.setattr(ticks.time, "monotonic", lambda: next(took))
    one.start(1000.0)
    assert one.skew == 0.0
    one.start(1031.0)
    assert one.skew == 1.0
