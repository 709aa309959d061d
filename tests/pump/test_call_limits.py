"""Limits on calls of a source, shared by inlets, and sources that ask to be called later."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tasks import Reservoir, RetryLater, SettingsError
from tasks.pump.call_limit import CallGate, CallLimit
from tasks.pump.run import PumpRun
from tasks.pump.ticks import Beat
from tasks.reservoir.keys import limit_keys
from tests.support.pumps import Clock, ending_all, pushed, run_until

Fresh = Callable[[], redis.Redis]
INLET = "pump:00000000000000aa"


@pytest.fixture(autouse=True)
def end_all() -> Iterator[None]:
    with ending_all():
        yield


@pytest.mark.parametrize(
    ("limit", "calls", "period_ms"),
    [("100/min", 100, 60_000), ("5/s", 5, 1_000), ("1000/1d", 1_000, 86_400_000), (" 10 / 30s ", 10, 30_000)],
)
def test_a_limit_is_a_number_of_calls_in_a_duration(limit: str, calls: int, period_ms: int) -> None:
    assert CallLimit.of(limit, "api") == CallLimit("api", calls, period_ms)


@pytest.mark.parametrize(
    "limit", ["", "100", "100/", "0/min", "-1/s", "1/0s", "1000000/s", "5 per s", "1/31d", "1/2/s"]
)
def test_another_text_is_no_limit(limit: str) -> None:
    with pytest.raises(SettingsError, match="limit: expected up to 100,000 calls per duration"):
        CallLimit.of(limit, "api")


def test_a_name_that_no_key_can_hold_is_refused() -> None:
    with pytest.raises(SettingsError, match="limit_name: expected a name"):
        CallLimit.of("1/s", "a:b")


def now_ms(client: Any) -> float:
    seconds, microseconds = client.time()
    return seconds * 1000 + microseconds / 1000


@given(calls=st.integers(1, 4), waits=st.lists(st.integers(0, 700), min_size=1, max_size=30))
def test_no_more_calls_than_the_limit_in_any_period_by_all_inlets(
    fresh_client: Fresh, calls: int, waits: list[int]
) -> None:
    """Time passes by moving the stored times into the past; each call happened between two readings of the clock."""
    client: Any = fresh_client()
    limit = CallLimit("api", calls, 1_000)
    gates = [CallGate(client, limit, inlet=f"{name}:00000000000000aa") for name in ("one", "other")]
    key, _ = limit_keys("api")
    allowed: list[tuple[float, float]] = []
    moved = 0
    for n, wait in enumerate(waits):
        moved += wait
        if stored := [int(each) - wait for each in client.lrange(key, 0, -1)]:
            client.delete(key)
            client.rpush(key, *stored)
            client.pexpire(key, 60_000)
        before = now_ms(client) + moved
        refused = gates[n % 2].take()
        after = now_ms(client) + moved
        if refused:
            assert 0 < refused <= 1
            assert before - allowed[-calls][1] < 1_000
        else:
            allowed.append((before, after))
            assert len(allowed) <= calls or after - allowed[-calls - 1][0] >= 999  # the script counts whole ms


def test_a_pause_holds_for_all_inlets_of_a_limit_and_a_longer_one_stays(client: redis.Redis) -> None:
    limit = CallLimit("api", 10, 1_000)
    one, other, alone = (
        CallGate(client, limit, inlet=INLET),
        CallGate(client, limit, inlet="other:00000000000000aa"),
        CallGate(client, None, inlet=INLET),
    )
    one.pause(60)
    other.pause(1)
    assert 55 < other.take() <= 60
    assert alone.take() == 0
    alone.pause(30)
    assert 25 < alone.take() <= 30
    assert 25 < CallGate(client, None, inlet=INLET).left() <= 30


def running(client: redis.Redis, pump: Callable[[], Any], clock: Clock, limit: CallLimit | None) -> PumpRun:
    from tests.support.pumps import begun

    made = PumpRun(
        pump,
        name="pump",
        beat=Beat(Reservoir(client), "topic", "pump", every=1.0),
        gate=CallGate(client, limit, inlet=INLET),
        clock=clock,
        timer=clock,
    )
    made.begin()
    begun.append(made)
    return made


def test_ticks_beyond_the_limit_are_missed_and_counted(client: redis.Redis) -> None:
    clock, calls = Clock(), []

    def pump() -> dict[str, float]:
        calls.append(clock.now)
        return {"n": clock.now}

    one = running(client, pump, clock, CallLimit("api", 3, 3_600_000))
    run_until(one, clock, 1010.0)
    assert pushed(client) == calls
    assert len(calls) == 3
    assert one.summary.reasons == {"the limit of 3/60 min calls was reached": one.summary.due - 3}


@pytest.mark.parametrize("limit", [None, CallLimit("api", 1_000, 1_000)])
def test_a_source_that_asks_for_time_is_not_called_before_also_by_the_next_run(
    client: redis.Redis, limit: CallLimit | None
) -> None:
    clock, calls = Clock(), []

    def pump() -> dict[str, float]:
        calls.append(clock.now)
        if len(calls) == 2:
            raise RetryLater(4)
        return {"n": clock.now}

    one = running(client, pump, clock, limit)
    run_until(one, clock, 1003.5)
    assert len(calls) == 2
    assert one.summary.failed == 0
    assert one.summary.reasons["the source asked to be called later"] >= 1
    other = running(client, pump, clock, limit)
    run_until(other, clock, clock.now + 2)
    assert len(calls) == 2
    client.delete(limit_keys("api" if limit else INLET)[1])  # the clock of Redis goes on more slowly
    run_until(other, clock, clock.now + 6)
    assert len(calls) > 2


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_a_source_cannot_ask_for_a_time_that_is_none(seconds: float) -> None:
    with pytest.raises(SettingsError, match="RetryLater: expected seconds from 0 on"):
        RetryLater(seconds)
