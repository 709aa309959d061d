"""Ticks that were missed are pumped late, in order and once, each with its own time."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from tasks import Reservoir, RetryLater
from tasks.pump.run import PumpRun
from tasks.pump.ticks import Beat
from tests.pump.test_cursors import Link
from tests.support.pumps import Clock, begun, ending_all, pushed, settle
from tests.support.waiting import wait_until

Fresh = Callable[[], redis.Redis]
HOUR = 3_600.0


@pytest.fixture(autouse=True)
def end_all() -> Iterator[None]:
    with ending_all():
        yield


class World:
    """Runs of one inlet with a tick each second; each entry is the time of its tick."""

    def __init__(self, client: Any, *, catch_up: float = HOUR) -> None:
        self.client, self.clock, self.catch_up = client, Clock(), catch_up
        self.alive: list[tuple[PumpRun, Link]] = []
        self.asks = 0.0

    def pump(self, at: datetime) -> dict[str, float]:
        if self.asks:
            asks, self.asks = self.asks, 0.0
            raise RetryLater(asks)
        return {"n": at.timestamp()}

    def start(self) -> None:
        link = Link(self.client)
        one = PumpRun(
            self.pump,
            name="pump",
            beat=Beat(Reservoir(link.client), "topic", "pump", every=1.0),
            catch_up=self.catch_up,
            at="at",
            clock=self.clock,
            timer=self.clock,
        )
        one.begin()
        begun.append(one)
        self.alive.append((one, link))

    def stop(self) -> None:
        for one, link in self.alive:
            one.stop()
            if link.left is None:
                wait_until(lambda one=one: one.step() is None, "the end of the run")
            self.end(one, link)
        self.alive.clear()

    def kill(self) -> None:
        while self.alive:
            one, link = self.alive.pop()
            link.cut(0, arrives=False)
            self.end(one, link)

    def end(self, one: PumpRun, link: Link) -> None:
        if link.left is not None:
            link.cut(0, arrives=False)
        one.close()
        one._pusher.join(20)
        self.client.delete(one._beat._alive)

    def wait(self, seconds: int) -> None:
        """Let time pass, without a step of any run: they are busy, or suspended."""
        self.clock.now += seconds

    def cut(self) -> None:
        for _, link in self.alive:
            link.cut(0, arrives=False)

    def mend(self) -> None:
        for one, link in self.alive:
            link.left = None
            with one._handover._changed:
                one._handover._changed.notify()

    def ask(self, seconds: int) -> None:
        self.asks = float(seconds)

    def steps(self) -> None:
        """Step each run until it has caught up, as far as it can."""
        self.clock.now += 1.0
        for one, link in self.alive:
            if link.left is not None:
                one.step()
                continue
            for _ in range(200):
                if (wait := one.step()) is None:
                    break
                settle(one)
                if wait > 0.1:
                    break
                if one._failing.is_resting(self.clock.now):
                    break


EVENTS: dict[str, Callable[[World, int], None]] = {
    "start": lambda world, _: world.start(),
    "stop": lambda world, _: world.stop(),
    "kill": lambda world, _: world.kill(),
    "wait": lambda world, n: world.wait(n),
    "cut": lambda world, _: world.cut(),
    "mend": lambda world, _: world.mend(),
    "ask": lambda world, n: world.ask(n),
}


@given(events=st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), st.integers(1, 9), st.integers(0, 3)), max_size=10))
@example([("stop", 1, 3), ("wait", 7, 0), ("start", 1, 1)])
@example([("ask", 5, 2), ("stop", 1, 1), ("start", 1, 2)])
@example([("cut", 1, 3), ("mend", 1, 1)])
def test_every_tick_is_pumped_once_and_in_order_however_late(
    fresh_client: Fresh, events: list[tuple[str, int, int]]
) -> None:
    world = World(fresh_client())
    world.start()
    first = world.alive[0][0]._next
    for event, n, steps in events:
        EVENTS[event](world, n)
        for _ in range(steps):
            world.steps()
    world.mend()
    world.stop()
    world.start()
    for _ in range(20):
        world.steps()
    world.stop()
    assert pushed(world.client) == [float(n) for n in range(first, first + len(pushed(world.client)))]
    assert pushed(world.client)[-1] >= world.clock.now - 2


def test_ticks_older_than_the_bound_stay_missed_and_are_counted(client: redis.Redis) -> None:
    world = World(client, catch_up=5.0)
    world.start()
    world.steps()
    world.wait(20)
    world.steps()
    [(one, _)] = world.alive
    assert one.summary.reasons == {"they were older than catch_up": 16}
    assert pushed(client) == [1001.0, *(float(n) for n in range(1018, 1023))]


def test_without_a_bound_a_late_run_misses_ticks(client: redis.Redis) -> None:
    world = World(client, catch_up=0.0)
    world.start()
    world.steps()
    world.wait(5)
    world.steps()
    assert pushed(client) == [1001.0, 1007.0]


def test_a_tick_whose_call_fails_is_not_repeated(client: redis.Redis) -> None:
    world, failed = World(client), []

    def pump(at: datetime) -> dict[str, float]:
        if not failed:
            failed.append(at)
            raise OSError
        return {"n": at.timestamp()}

    world.pump = pump  # type: ignore[method-assign]
    world.start()
    world.steps()
    world.steps()
    assert failed == [datetime.fromtimestamp(1001, UTC)]
    assert pushed(client) == [1002.0]
