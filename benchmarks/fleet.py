"""Many runs that share many partitions, simulated in one process: who owns what while runs join, leave and die.

    python -m benchmarks --only fleet

`Replica`, `Members`, `Ownership` and the leases are those of real runs, on a real Redis. Only the streamz sources are stand-ins
that process nothing. The clock is simulated: in Redis, leases last for a day, and the fleet deletes the leases and members that
were not renewed within a lease on its own clock. So an hour takes a minute, and the same seed gives the same history.
"""

import asyncio
import logging
import random
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

import redis

from benchmarks.work import connected
from tasks.errors import LeaseLostError
from tasks.group.consumer import Consumer
from tasks.group.ownership import Ownership
from tasks.nodes.replica import Replica
from tasks.reservoir.keys import lease_key, members_key
from tasks.reservoir.topic_names import partition_topic

__all__ = ["LONGEST_WORK", "MEET", "Change", "Fleet", "Run", "figures", "least_moves", "live"]

GROUP, TOPIC = "fleet", "simulated"
# In ticks of 0.1 s, as real runs have them by default.
LEASE, MEET = 100, 5
LONGEST_WORK = 10  # ticks that a source takes at most to finish what is in flight
_DAY = 86_400.0
_LEAVES_WITHIN = 2.0  # real seconds


class Source:
    """Stands in for `from_redis`: it wants to own one partition, and needs some time to end after a stop."""

    def __init__(self, fleet: "Fleet", run: "Run", n: int) -> None:
        self.n = n
        self.run = run
        self.outcome: Future[None] = Future()
        self.is_owner = False
        self.is_through = False
        self._fleet = fleet
        self._ends_at: int | None = None
        topic = partition_topic(TOPIC, n)
        self.consumer = Consumer(fleet.client, topic, GROUP, partition=n, lease_ttl=_DAY)
        self._ownership = Ownership(fleet.client, self.consumer.membership, self.consumer.scope, cure="wait")

    @property
    def latest_run(self) -> "Source":
        return self

    @property
    def lease(self) -> str:
        return self.consumer.membership.fence.lease

    def start(self) -> None:
        self._renew()

    def stop(self) -> None:
        """End, once what is in flight has been finished."""
        work = self._fleet.chance.randint(0, LONGEST_WORK) if self.is_owner else 0
        self._ends_at = self._fleet.now + work

    def step(self) -> None:
        """Do what is due: renew the lease, become the owner, end."""
        if self.outcome.done():
            return
        try:
            if self._fleet.now >= self._renew_at or self._fleet.is_late(self):
                self._renew()
            if self._ends_at is not None:
                self._end()
            elif not self.is_owner and self._ownership.acquire(self.consumer.topics):
                self.is_owner = True
                self._fleet.note_owner(self)
        except LeaseLostError as error:
            self.is_owner = False
            self._fleet.fenced += 1
            self.outcome.set_exception(error)

    def _renew(self) -> None:
        self.consumer.membership.renew()
        self._renew_at = self._fleet.now + self._fleet.lease // 4
        self._fleet.note_renewal(self.lease)
        if self.is_owner:
            self._fleet.note_act(self)

    def _end(self) -> None:
        if self._fleet.now >= (self._ends_at or 0):
            self.consumer.membership.release()
            self._fleet.note_end(self)
            self.is_owner = False
            self.outcome.set_result(None)


class Run:
    """One run: its replica, and where it is on its way."""

    def __init__(self, fleet: "Fleet") -> None:
        self.is_suspended = False
        self.made: list[Source] = []
        self.offset = fleet.chance.randrange(MEET)
        self.replica = Replica(fleet.client, GROUP, fleet.partitions, build=self._build, ttl=_DAY)
        self.ending: asyncio.Task[None] | None = None
        # Ranks follow names, so that the same seed gives the same history.
        self.member = self.replica._members._name = f"{fleet.chance.getrandbits(64):016x}"
        self._fleet = fleet

    def _build(self, n: int) -> Any:
        self.made = [source for source in self.made if not source.outcome.done()]
        self.made.append(source := Source(self._fleet, self, n))
        return source


@dataclass
class Change:
    """What one join, leave or death led to.

    moves    how many partitions got another owner, and `least`, how many had to
    gaps     ticks without an owner, for each partition that got another one
    took     ticks until the shares were fair again, and settled
    """

    kind: str
    moves: int = 0
    least: int = 0
    gaps: list[int] = field(default_factory=list)
    took: int = 0


class Fleet:
    """Runs that share the partitions of a topic, on a clock of their own.

    lease     ticks without a renewal after which a run counts as dead
    fenced    how often an owner that had been suspended found out that it owns its partition no longer
    """

    def __init__(self, client: redis.Redis, partitions: int, *, seed: int, lease: int = LEASE) -> None:
        self.client = client
        self.partitions = partitions
        self.lease = lease
        self.chance = random.Random(seed)
        self.now = 0
        self.runs: list[Run] = []
        self.fenced = 0
        self.change = Change("start")
        self._expires: dict[str, int] = {}
        self._members: dict[str, int] = {}
        self._owner: dict[int, Source] = {}
        self._holder: dict[int, Run] = {}
        self._free_since = dict.fromkeys(range(partitions), 0)

    # --- what happens to runs ---

    def join(self) -> Run:
        """Add a run."""
        self.runs.append(run := Run(self))
        return run

    def leave(self, run: Run) -> None:
        """Stop a run in good order."""
        run.ending = asyncio.ensure_future(run.replica.stop())

    def kill(self, run: Run) -> None:
        """End a run without a word to the others."""
        self.runs.remove(run)
        self._lose(run)

    def suspend(self, run: Run) -> None:
        """Let a run stand still until it is `woken`, with the belief that it owns what it owned."""
        run.is_suspended = True
        self._lose(run)

    def wake(self, run: Run) -> None:
        """Let a suspended run go on."""
        run.is_suspended = False

    def _lose(self, run: Run) -> None:
        for n, source in self._owner.items():
            if source.run is run and n not in self._free_since:
                self._free_since[n] = self.now

    # --- the clock ---

    async def tick(self) -> None:
        """Let a tenth of a second pass: leases expire, and runs act in random order."""
        self.now += 1
        await self._let_stops_begin()
        self._expire()
        acts = [(run, act) for run in self._awake() for act in ("sources", "replica")]
        self.chance.shuffle(acts)
        for run, act in acts:
            if act == "replica" and run.ending is None and (self.now + run.offset) % MEET == 0:
                self._members[run.member] = self.now + self.lease
                await run.replica.step()
            elif act == "sources":
                for source in list(run.made):
                    source.step()
        await self._end_stopped()

    async def _let_stops_begin(self) -> None:
        """Have runs that are to end leave the members before others meet: they do so in a thread, which this clock does not stop."""
        await asyncio.sleep(0)  # their tasks begin, also if nothing else in this tick waits
        end = time.monotonic() + _LEAVES_WITHIN
        for run in [run for run in self.runs if run.ending]:
            while self.client.zscore(members_key(GROUP), run.member) is not None and time.monotonic() < end:  # noqa: ASYNC110 - it looks into Redis
                await asyncio.sleep(0.001)

    def _awake(self) -> list[Run]:
        return [run for run in self.runs if not run.is_suspended]

    async def _end_stopped(self) -> None:
        for run in [run for run in self.runs if run.ending]:
            if all(source.outcome.done() for source in run.made):
                await run.ending
            if run.ending.done():
                self.runs.remove(run)

    def _expire(self) -> None:
        for lease in [lease for lease, end in self._expires.items() if end <= self.now]:
            del self._expires[lease]
            if (self.client.get(lease) or b"claimed") != b"claimed":
                self.client.delete(lease)
        for member in [member for member, end in self._members.items() if end <= self.now]:
            del self._members[member]
            self.client.zrem(members_key(GROUP), member)

    def is_late(self, source: Source) -> bool:
        """Return whether a source was suspended for longer than its lease."""
        return source.lease not in self._expires

    # --- what sources report ---

    def note_renewal(self, lease: str) -> None:
        """Note that a lease lasts from now on."""
        self._expires[lease] = self.now + self.lease

    def note_owner(self, source: Source) -> None:
        """Note a new owner; fail if the lease of the one before it lives."""
        n = source.n
        if (holder := self._holder.get(n)) is not source.run:
            self.change.moves += holder is not None
        before = self._owner.get(n)
        is_free = before is None or before.outcome.done() or self.is_late(before)
        assert is_free, f"partition {n} got a second owner while the lease of its first one lived"
        if holder is not None:
            self.change.gaps.append(self.now - self._free_since[n])
        del self._free_since[n]
        self._owner[n], self._holder[n] = source, source.run

    def note_act(self, source: Source) -> None:
        """Note that an owner has acted; fail if it has a successor."""
        assert self._owner[source.n] is source, f"an owner of partition {source.n} acted after its successor"
        self._free_since.pop(source.n, None)  # it was suspended, and its lease has not expired

    def note_end(self, source: Source) -> None:
        """Note that a source has given up its lease."""
        self._expires.pop(source.lease, None)
        if source.is_owner:
            self._free_since[source.n] = self.now

    # --- what there is ---

    @property
    def owned(self) -> list[int]:
        """How many partitions each run owns that is not suspended."""
        return [len(run.replica.owned) for run in self._awake()]

    @property
    def free(self) -> int:
        """The number of partitions without an owner."""
        return len(self._free_since)

    @property
    def is_settled(self) -> bool:
        """Whether every partition has an owner, the shares differ by one at most, and nothing is on its way."""
        if self.free or any(run.ending for run in self.runs):
            return False
        owned = self.owned
        if sum(owned) != self.partitions:  # a run that was suspended believes to own some
            return False
        wanted = [len(run.replica.sources) for run in self._awake()]
        return max(owned) - min(owned) <= 1 and wanted == owned

    async def settle(self, *, within: int | None = None) -> int:
        """Let time pass until `is_settled`; return how many ticks that took.

        raises    AssertionError: it took longer than `within` ticks, by default ten leases
        """
        began, within = self.now, within or 10 * self.lease
        while not self.is_settled:
            await self.tick()
            assert self.now - began <= within, f"after {within} ticks, {self.free} are free and runs own {self.owned}"
        return self.now - began

    async def end(self) -> None:
        """Stop all runs in good order.

        raises    AssertionError: it took longer than ten leases
        """
        for run in self.runs:
            self.wake(run)
            if run.ending is None:
                self.leave(run)
        began = self.now
        while self.runs:
            await self.tick()
            assert self.now - began <= 10 * self.lease, f"{len(self.runs)} runs were stopped and have not ended"
        self.client.delete(*[lease_key(GROUP, source.consumer.membership.name) for source in self._owner.values()])


def least_moves(owned: Iterable[int], partitions: int) -> int:
    """Return how many partitions must get another owner until shares are fair.

    owned    how many each run owns by now that is to stay, a new one 0

    >>> least_moves([4, 4, 0], 8)
    2
    """
    most_first = sorted(owned, reverse=True)
    fair, more = divmod(partitions, len(most_first))
    return partitions - sum(min(own, fair + (rank < more)) for rank, own in enumerate(most_first))


async def live(fleet: Fleet, most: int, changes: int) -> list[Change]:
    """Let runs join, leave, die and stand still at random, each after the last change has settled; return what each led to.

    most    number of runs, which the fleet has at its beginning
    """
    for _ in range(most):
        fleet.join()
    await fleet.settle()
    return [await _changed(fleet, kind) for kind in _kinds(fleet, most, changes)]


def _kinds(fleet: Fleet, most: int, changes: int) -> Iterator[str]:
    for _ in range(changes):
        kinds = ["leave", "death", "suspension"] if len(fleet.runs) > max(1, most // 2) else []
        yield fleet.chance.choice(kinds + ["join"] * (len(fleet.runs) < most))


async def _changed(fleet: Fleet, kind: str) -> Change:
    change = fleet.change = Change(kind)
    for _ in range(fleet.chance.randrange(fleet.lease)):
        await fleet.tick()
    run = fleet.join() if kind == "join" else fleet.chance.choice(fleet.runs)
    stay = [len(one.replica.owned) for one in fleet.runs if one is not run]
    change.least = least_moves([*stay, 0] if kind == "join" else stay, fleet.partitions)
    if kind == "leave":
        fleet.leave(run)
    elif kind == "death":
        fleet.kill(run)
    elif kind == "suspension":
        fleet.suspend(run)
        for _ in range(fleet.lease + fleet.chance.randrange(fleet.lease)):
            await fleet.tick()
        fleet.wake(run)
        change.least += fleet.partitions // len(fleet.runs)
    change.took = await fleet.settle()
    return change


def figures(url: str, *, partitions: int, runs: int, changes: int, seed: int) -> dict[str, Any]:
    """Return what the changes led to, by kind: means of moves, and leases without an owner."""

    async def simulate(fleet: Fleet) -> list[Change]:
        found = await live(fleet, runs, changes)
        await fleet.end()
        return found

    logging.getLogger("tasks.nodes.replica").setLevel(logging.ERROR)  # it reports each partition of a suspended run
    fleet = Fleet(connected(url), partitions, seed=seed)
    found = asyncio.run(simulate(fleet))
    kinds = {kind: [each for each in found if each.kind == kind] for kind in sorted({each.kind for each in found})}
    return {"seconds": fleet.now / 10, "fenced": fleet.fenced, "kinds": {kind: _shown(kinds[kind]) for kind in kinds}}


def _shown(changes: list[Change]) -> dict[str, float]:
    gaps = [gap / LEASE for change in changes for gap in change.gaps]
    return {
        "number": len(changes),
        "moves": mean(change.moves for change in changes),
        "least": mean(change.least for change in changes),
        "median": median(gaps) if gaps else 0.0,
        "longest": max(gaps, default=0.0),
        "settled": max(change.took for change in changes) / 10,
    }
