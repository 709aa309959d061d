"""Every tick is counted, through failing pumps, refusals, outages and kills."""

import copy
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import redis
from hypothesis import example, given
from hypothesis import strategies as st

from tasks import Reservoir
from tasks.pump.run import PumpRun
from tasks.pump.summary import Summary
from tasks.pump.ticks import Beat
from tests.support.pumps import Clock, settle
from tests.support.waiting import wait_until


class Link:
    """A connection to Redis that a test can cut."""

    def __init__(self, client: redis.Redis) -> None:
        self.client: Any = copy.copy(client)
        self.client.auto_close_connection_pool = False
        self.is_cut = False
        self.client.execute_command = self._through(client.execute_command)
        self.client.pipeline = self._through(client.pipeline)

    def _through(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def through(*args: Any, **options: Any) -> Any:
            if self.is_cut:
                msg = "out of reach"
                raise redis.ConnectionError(msg)
            return call(*args, **options)

        return through


class Guarded(Summary):
    """Counts that notice a write without the lock that guards them."""

    lock: threading.Lock
    unguarded: ClassVar[list[str]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        lock = getattr(self, "lock", None)
        if lock and not lock.locked():
            self.unguarded.append(name)
        super().__setattr__(name, value)


class World:
    """The model: runs of one inlet on one clock, with kills, outages and refusals."""

    def __init__(self, client: Any) -> None:
        self.client, self.clock = client, Clock()
        self.alive: list[tuple[PumpRun, Link]] = []
        self.reported: list[Summary] = []  # at the ends of runs
        self.killed: list[Summary] = []  # no log reports these
        self.outcome = "entry"
        self.is_exact = True  # as long as no two runs can count one tick
        self.blocked: set[str] = set()

    def pump(self) -> dict[str, float] | None:
        if self.outcome == "error":
            raise OSError
        return None if self.outcome == "nothing" else {"n": self.clock.now}

    def start(self) -> None:
        if "claims" in self.blocked:
            return
        link = Link(self.client)
        beat = Beat(Reservoir(link.client), "topic", "pump", every=1.0)
        one = PumpRun(
            self.pump, name="pump", beat=beat, max_failures=2, window=12.0, clock=self.clock, timer=self.clock
        )
        counts = Guarded()
        counts.lock = one._tally._lock
        one._tally._counts = counts
        one.begin()
        self.key = beat.key
        # What an older run has counted and could not claim, this one may count as well.
        unclaimed = any(link.is_cut or one._handover.jobs or one.summary.failed for one, link in self.alive)
        self.is_exact = self.is_exact and not unclaimed
        self.alive.append((one, link))

    def stop(self) -> None:
        if self.alive:
            self.alive[0][0].stop()

    def kill(self) -> None:
        if not self.alive:
            return
        one, link = self.alive.pop(0)
        self.is_exact = self.is_exact and not link.is_cut and "claims" not in self.blocked
        link.is_cut = True
        left = one._handover.close()
        one._pusher.join(20)
        self.client.delete(one._beat._alive)
        summary = one.summary
        summary.due -= sum(job.began is not None for job in left)
        self.killed.append(summary)

    def cut(self) -> None:
        self.is_exact = self.is_exact and len(self.alive) < 2
        for _, link in self.alive:
            link.is_cut = True

    def mend(self) -> None:
        for one, link in self.alive:
            link.is_cut = False
            with one._handover._changed:
                one._handover._changed.notify()

    def refuse(self, what: str) -> None:
        key = "topic" if what == "pushes" else f"{self.key}:open"
        if what in self.blocked:
            return
        self.blocked.add(what)
        if self.client.exists(key):
            self.client.rename(key, f"{key}:aside")
        self.client.set(key, "of another type")

    def allow(self) -> None:
        for what in self.blocked:
            key = "topic" if what == "pushes" else f"{self.key}:open"
            self.client.delete(key)
            if self.client.exists(f"{key}:aside"):
                self.client.rename(f"{key}:aside", key)
        self.blocked.clear()

    def tick(self) -> None:
        """Move the clock by a second, and step each run."""
        self.clock.now += 1.0
        for one, link in list(self.alive):
            if one.step() is None or (one._ended and link.is_cut):
                self.end(one, link)
            elif not link.is_cut:
                settle(one)

    def end(self, one: PumpRun, link: Link) -> None:
        if not link.is_cut:
            wait_until(lambda: one.step() is None, "the end of the run")
        self.is_exact = self.is_exact and not link.is_cut and "claims" not in self.blocked
        one.close()
        one._pusher.join(20)
        self.alive.remove((one, link))
        self.reported.append(one.summary)


EVENTS: dict[str, Callable[[World], None]] = {
    "start": World.start,
    "stop": World.stop,
    "kill": World.kill,
    "cut": World.cut,
    "mend": World.mend,
    "refuse pushes": lambda world: world.refuse("pushes"),
    "refuse claims": lambda world: world.refuse("claims"),
    "allow": World.allow,
    **{what: lambda world, what=what: setattr(world, "outcome", what) for what in ("entry", "nothing", "error")},
}


def counted(summary: Summary) -> int:
    return summary.pushed + summary.nothing + summary.missed + summary.failed + summary.lost


@given(events=st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), st.integers(0, 6)), max_size=14))
@example([("error", 9), ("entry", 9)])
@example([("kill", 6), ("start", 3), ("stop", 6), ("start", 1)])
@example([("refuse claims", 4), ("allow", 3), ("refuse pushes", 5)])
@example([("start", 0), ("cut", 3), ("kill", 1), ("mend", 3)])
@example([("allow", 12), ("start", 0), ("stop", 0)])
def test_every_tick_of_an_inlet_is_counted_through_kills_outages_and_refusals(
    fresh_client: Callable[[], redis.Redis], events: list[tuple[str, int]]
) -> None:
    world = World(fresh_client())
    world.start()
    first = world.alive[0][0]._next
    for event, ticks in events:
        EVENTS[event](world)
        for _ in range(ticks):
            world.tick()
    world.mend()
    world.allow()
    world.outcome = "entry"
    world.start()
    for _ in range(3):
        world.tick()
    last = world.alive[-1][0]._next - 1
    for one, link in list(world.alive):
        one.stop()
        world.end(one, link)
    for summary in world.reported:
        assert summary.due == counted(summary)
    ticks = last - first + 1
    sums = sum(counted(each) + each.unattended for each in [*world.reported, *world.killed])
    assert sums >= ticks
    if world.is_exact:
        assert sums == ticks
    assert not Guarded.unguarded, "counts that a thread wrote without the lock"
    pushed = [entry["n"] for entry in Reservoir(world.client).peek("topic", 1_000)]
    assert pushed == sorted(set(pushed))
    assert len(pushed) == sum(each.pushed for each in [*world.reported, *world.killed])
