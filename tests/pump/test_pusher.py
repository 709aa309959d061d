"""Claims and pushes in tick order, through outages and refusals of Redis and beside other runs."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest
import redis

from tasks import Reservoir
from tasks.base.repeated_warnings import Repeated
from tasks.pump.failing import Failing
from tasks.pump.handover import Handover, Job
from tasks.pump.outcomes import Outcomes
from tasks.pump.pusher import Pusher
from tasks.pump.tally import Tally
from tasks.pump.ticks import Beat
from tasks.reservoir.keep import BacklogLimits
from tests.support.pumps import Clock, Gate, ending_all, pumping, pushed, run_until, settle
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def end_all() -> Iterator[None]:
    with ending_all():
        yield


def test_a_run_pumps_through_an_outage_and_then_pushes_in_tick_order() -> None:
    server = fakeredis.FakeServer(version=(7,))
    client, clock = fakeredis.FakeRedis(server=server, protocol=2), Clock()
    one = pumping(client, lambda: {"n": clock.now}, clock)
    run_until(one, clock, 1001.5)
    settle(one)
    server.connected = False
    for clock.now in (1002.0, 1003.0, 1004.0):
        one.step()
    assert one.summary.pushed == 1
    server.connected = True
    settle(one)
    assert pushed(client) == [1001.0, 1002.0, 1003.0, 1004.0]
    assert one.summary.missed == 0


def test_ticks_that_another_run_pushed_in_an_outage_are_dropped_and_counted() -> None:
    server = fakeredis.FakeServer(version=(7,))
    client, clock = fakeredis.FakeRedis(server=server, protocol=2), Clock()
    one = pumping(client, lambda: {"n": clock.now}, clock)
    server.connected = False
    for clock.now in (1001.0, 1002.0):
        one.step()
    other = Beat(Reservoir(fakeredis.FakeRedis(server=server, protocol=2)), "topic", "pump", every=1.0)
    with one._handover._changed:  # the pusher cannot look for work until the other run has pushed
        server.connected = True
        other.start(1000.0)
        assert other.claim(1002) == "claimed"
        other.push(1002, other.reservoir.encode([{"n": "other"}]))
        other.done(1002, pushed=True)
    settle(one)
    assert pushed(client) == ["other"]
    assert one.summary.missed == 2


@pytest.mark.parametrize("limit", [2, "14B"])  # an entry here is 7 bytes: its field's name, its value
def test_ticks_beyond_the_bound_of_waiting_entries_are_missed(limit: int | str) -> None:
    server = fakeredis.FakeServer(version=(7,))
    client, clock = fakeredis.FakeRedis(server=server, protocol=2), Clock()
    one = pumping(client, lambda: {"n": clock.now}, clock, max_waiting=BacklogLimits.of(limit))
    server.connected = False
    for clock.now in (1001.0, 1002.0, 1003.0, 1004.0):
        one.step()
    server.connected = True
    settle(one)
    assert pushed(client) == [1001.0, 1002.0]
    assert one.summary.reasons == {"no more may wait for Redis": 2}


def test_a_newcomer_pushes_after_the_ticks_that_the_older_run_still_pumps(client: redis.Redis) -> None:
    clock, gate = Clock(), Gate()
    old = pumping(client, gate.pump, clock, threads=2)
    clock.now = 1001.0
    old.step()
    assert gate.started.acquire(timeout=10)
    new = pumping(client, lambda: {"n": "new"}, clock)
    clock.now = 1002.0
    new.step()
    assert pushed(client) == []
    gate.gates[0].set()
    settle(new)
    assert pushed(client) == [0, "new"]


def test_a_tick_that_pushed_nothing_leaves_no_record_behind(client: redis.Redis) -> None:
    clock = Clock()
    one = pumping(client, lambda: None, clock)
    run_until(one, clock, 1002.5)
    assert not client.exists(one._beat._record(1001), one._beat._open)


def test_the_next_run_neither_waits_for_refused_ticks_nor_counts_them_as_lost(client: redis.Redis) -> None:
    clock = Clock()
    client.set("topic", "of another type")
    old = pumping(client, lambda: {"n": "old"}, clock)
    run_until(old, clock, 1002.5)
    assert old.summary.failed == 2
    assert not client.exists(old._beat._record(1001), old._beat._record(1002), old._beat._open)
    client.delete("topic")
    new = pumping(client, lambda: {"n": "new"}, clock)
    run_until(new, clock, 1004.5)
    assert pushed(client) == ["new"]
    assert new.summary.lost == 0


def test_a_refused_tick_whose_claim_cannot_be_given_back_holds_nothing_up(client: redis.Redis) -> None:
    clock = Clock()
    client.set("topic", "of another type")
    one = pumping(client, lambda: {"n": clock.now}, clock)

    def fail(tick: int, *, pushed: bool) -> None:
        raise redis.ConnectionError

    done, one._beat.done = one._beat.done, fail  # type: ignore[method-assign]
    run_until(one, clock, 1001.5)
    one._beat.done = done  # type: ignore[method-assign]
    client.delete("topic")
    run_until(one, clock, 1002.5)
    assert pushed(client) == [1002.0]
    assert one.summary.failed == 1


def test_refused_push_costs_its_own_tick_even_if_another_is_claimed_in_between(
    fake_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = Beat(Reservoir(fake_redis), "topic", "inlet", every=1.0)
    first = beat.start(time.time() - 10)
    warn = Repeated(logging.getLogger("test"))
    tally = Tally("inlet", warn)
    failing = Failing("inlet", every=1.0, most=10, when="retry", log=logging.getLogger("test"))
    handover = Handover()
    outcomes = Outcomes("inlet", beat, tally, failing, warn, clock=time.time, timer=time.monotonic, on_pushed=None)
    pusher = Pusher(beat, handover, outcomes)
    one, other = Job(first), Job(first + 1)
    push = beat.push

    def refused(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(beat, "push", push)
        handover.add(other)
        handover.begin(other, 0.0)
        msg = "WRONGTYPE"
        raise redis.ResponseError(msg)

    monkeypatch.setattr(beat, "push", refused)
    handover.add(one)
    assert one.answered.wait(20)
    assert handover.begin(one, 0.0)
    handover.end(one, 1.0, encoded=beat.reservoir.encode([{"n": 1}]))
    wait_until(lambda: handover.jobs == [other], "the refusal")
    assert other.answered.wait(20)
    handover.end(other, 2.0, encoded=beat.reservoir.encode([{"n": 2}]))
    wait_until(lambda: not handover.jobs, "the other tick")
    handover.close()
    assert pusher.join(20)
    assert (tally.summary().failed, tally.summary().pushed) == (1, 1)
    assert isinstance(one.refusal, redis.ResponseError)
    assert other.refusal is other.error is None
    assert [entry["n"] for entry in Reservoir(fake_redis).peek("topic", 9)] == [2]
