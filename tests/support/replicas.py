"""Runs that share partitions, stepped by hand on a clock of the test: real replicas, members, owners and consumers without threads."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import redis
from streamz import Stream
from tornado.ioloop import IOLoop

from tasks import Entry, LeaseLostError, StateConflictError
from tasks.codec import encode_fields
from tasks.group.membership import TOMBSTONE
from tasks.nodes.from_redis import from_redis
from tasks.nodes.replica import Replica
from tasks.reservoir.entry import with_time
from tasks.reservoir.keys import members_key
from tasks.reservoir.partitions import partition_for, partition_topic

__all__ = ["Runs", "push"]

LONG = 600.0  # seconds: no lease expires by itself, however slow the machine is
_ROUNDS = 500


def push(client: redis.Redis, partitions: int, entries: Iterable[Entry]) -> None:
    """Append entries, with the ids and event times that they have, to the partitions of their field 'key'."""
    with client.pipeline() as pipe:
        for entry in entries:
            stream = partition_topic(entry.topic, partition_for(entry["key"], partitions))
            fields: Any = with_time(encode_fields(dict(entry)), entry.own_time_ms)
            pipe.xadd(stream, fields, id=entry.id)
        pipe.execute()


class SteppedSource(from_redis):
    """A source that a replica starts and stops as usual, while the test does the work of its two threads."""

    now: Callable[[], int] = staticmethod(lambda: 0)
    is_at_rest = False

    def start(self) -> None:
        """Open the run; the clock of the ids is that of the test, as far as the entries are read."""
        run = self.open()
        run.set_clock(lambda: min(run.consumer.known_up_to(), self.now()))
        self.outcome = Future()

    def stop(self) -> None:
        """Finish as a stopped source does: acknowledge what is done, and give the rest back."""
        self._ending(self.close)

    async def work(self) -> int:
        """Read once, emit and acknowledge; return the number of entries read."""
        try:
            read = await self.step()
        except (LeaseLostError, StateConflictError) as error:
            self._end_with(error)
            return 0
        run = self.latest_run
        self.is_at_rest = run.is_owner and not read and run.due is None and not run.in_flight
        return read

    async def work_in_part(self) -> None:
        """Read and emit without storing a cut or acknowledging anything."""
        run = self.latest_run
        try:
            if run.is_admitted():
                await run.emit(run.consumer.step(0))
        except (LeaseLostError, StateConflictError) as error:
            self._end_with(error)

    def read_only(self) -> None:
        """Have entries delivered, and forget them, as a process that dies right behind its read."""
        run = self.latest_run
        try:
            if run.is_admitted():
                run.consumer.step(0)
        except (LeaseLostError, StateConflictError) as error:
            self._end_with(error)

    def lose_lease(self) -> None:
        """Let the lease lapse, as that of a process which was suspended or killed; the tombstone of a successor stays."""
        lease = self.latest_run.consumer.membership.fence.lease
        if self.client.get(lease) != TOMBSTONE.encode():
            self.client.delete(lease)

    def _ending(self, end: Callable[[], object]) -> None:
        if self.outcome.done():
            return
        try:
            end()
        except (LeaseLostError, StateConflictError) as error:
            self._end_with(error)
        else:
            self.outcome.set_result(None)

    def _end_with(self, error: Exception) -> None:
        if not self.outcome.done():
            self.let_go()
            self.outcome.set_exception(error)


class Runs:
    """The runs of one group. All methods are called in one event loop.

    build       makes the pipeline on a source
    now         the time of the clock by which entries have their ids, in ms; the test moves it on
    """

    def __init__(
        self,
        client: redis.Redis,
        topics: list[str],
        build: Callable[[Stream], Any],
        *,
        group: str,
        partitions: int,
        **options: Any,
    ) -> None:
        self.client, self.topics, self.group, self.partitions = client, topics, group, partitions
        self.now = 0
        self.owners: list[tuple[int, int]] = []
        """Each change of an owner: the partition, and the number of its run among those that were ever started."""
        self._build, self._options = build, options
        self._living: dict[int, Replica] = {}
        self._started = 0

    def join(self) -> None:
        """Start another run."""
        self._living[self._started] = Replica(self.client, self.group, self.partitions, build=self._source, ttl=LONG)
        self._started += 1

    def _source(self, n: int) -> from_redis:
        source = SteppedSource(
            [partition_topic(topic, n) for topic in self.topics],
            group=self.group,
            client=self.client,
            partition=n,
            lease=LONG,
            loop=IOLoop.current(),
            asynchronous=True,
            **self._options,
        )
        source.now = lambda: self.now
        source.pipeline = self._build(source)  # type: ignore[attr-defined] - streamz holds nodes weakly
        return source

    async def meet(self, which: int | None = None) -> None:
        """Have one run, or all, look at its share, and start and stop sources."""
        for replica in self._chosen(which):
            await replica.step()

    async def work(self, which: int | None = None) -> int:
        """Have the sources of one run, or of all, take a step each; return the number of entries read."""
        read = 0
        for source in self._sources(which):
            read += await source.work()
        self._note_owners()
        return read

    async def work_in_part(self, which: int) -> None:
        """Have the sources of a run process entries, of which nothing is stored or acknowledged yet."""
        for source in self._sources(which):
            await source.work_in_part()
        self._note_owners()

    async def stop(self, which: int) -> None:
        """Stop a run in good order."""
        await self._pop(which).stop()

    def kill(self, which: int) -> None:
        """End a run as a killed process ends: entries may be delivered to it that it has never seen."""
        for source in self._of(self._pop(which)):
            source.read_only()
            source.lose_lease()
            source.let_go()
        self.client.delete(members_key(self.group))  # the others come back with their next step

    def suspend(self, which: int) -> None:
        """Let the leases of a run lapse. It goes on afterwards, and may find out late."""
        for source in self._sources(which):
            source.lose_lease()

    async def finish(self) -> None:
        """Work until all partitions are read to their ends and nothing is due any more; then stop all runs."""
        if not self._living:
            self.join()
        for _ in range(_ROUNDS):
            await self.meet()
            read = await self.work()
            sources = self._sources(None)
            read_by_one = sorted(source.partition_number or 0 for source in sources) == [*range(self.partitions)]
            if not read and read_by_one and all(source.is_at_rest for source in sources):
                break
        else:
            msg = f"the runs did not come to rest in {_ROUNDS} rounds"
            raise AssertionError(msg)
        for n in list(self._living):
            await self._living.pop(n).stop()

    def _chosen(self, which: int | None) -> list[Replica]:
        living = list(self._living.values())
        return living if which is None or not living else [living[which % len(living)]]

    def _pop(self, which: int) -> Replica:
        names = list(self._living)
        return self._living.pop(names[which % len(names)])

    def __len__(self) -> int:
        return len(self._living)

    def _sources(self, which: int | None) -> list[SteppedSource]:
        return [source for replica in self._chosen(which) for source in self._of(replica)]

    @staticmethod
    def _of(replica: Replica) -> list[SteppedSource]:
        return [one for one in replica.sources.values() if isinstance(one, SteppedSource) and not one.outcome.done()]

    def _note_owners(self) -> None:
        for number, replica in self._living.items():
            for n in replica.owned:
                if (n, number) != next((one for one in reversed(self.owners) if one[0] == n), None):
                    self.owners.append((n, number))
