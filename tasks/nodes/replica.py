"""One of the runs that share the partitions of a group's topics: it has a source and a pipeline for each partition it owns."""

import asyncio
import contextlib
import uuid
from collections.abc import Callable

import redis

from tasks.base.logs import get_logger
from tasks.errors import LeaseLostError, StateConflictError
from tasks.group.members import Members, Share
from tasks.nodes.from_redis import from_redis

__all__ = ["Replica"]

logger = get_logger(__name__)


class Replica:
    """Starts a source for each partition of this run's share, and stops sources beyond it.

    A source reads only while its consumer owns the partition, so a share may be out of date: it decides who tries, not who
    reads. A source that is stopped finishes what is in flight, and then gives the rest of its entries back.

    The graph's thread uses it.

    partitions  how many the topics have
    build       makes the source of one partition, with its pipeline, and does not start it
    client      a connection of its own
    ttl         seconds without a step after which the other runs take this one for dead
    """

    def __init__(
        self, client: redis.Redis, group: str, partitions: int, *, build: Callable[[int], from_redis], ttl: float
    ) -> None:
        self._members = Members(client, group, partitions, name=uuid.uuid4().hex, ttl=ttl)
        self._all = range(partitions)
        self._build = build
        self._ending: dict[int, from_redis] = {}
        self.sources: dict[int, from_redis] = {}
        """The sources that read, or wait for an owner to end, by partition."""
        self.finished: dict[int, from_redis] = {}
        """The sources of a bounded replay that have read their partitions to the ends, by partition."""
        self.share = Share(0, {})
        """What this run is to own, and the owners, as of the last step."""

    @property
    def owned(self) -> list[int]:
        """The partitions that this run owns."""
        return [n for n, source in self.sources.items() if source.latest_run.is_owner]

    @property
    def is_through(self) -> bool:
        """Whether a bounded replay has read all partitions to their ends."""
        return len(self.finished) == len(self._all)

    async def step(self) -> None:
        """Look at the members and the owners once, and start and stop sources accordingly.

        raises    redis.RedisError: Redis gave no answer; the sources outlast that by themselves. Take another step later
                  PipelineError, SettingsError, UnavailableError: what has ended a source, or keeps one from starting
        """
        self._settle()
        self.share = await asyncio.to_thread(self._members.meet)
        self._settle()
        self._give_up()
        self._take()

    async def stop(self) -> None:
        """Leave the members, stop all sources, and wait until they have ended.

        raises    what has ended a source
        """
        for source in self.sources.values():
            source.stop()
        # Not after the ends: other runs take each partition once it is given up, while this run still works on others.
        with contextlib.suppress(redis.RedisError):  # then the membership expires
            await asyncio.to_thread(self._members.leave)
        ends = [asyncio.wrap_future(source.outcome) for source in [*self.sources.values(), *self._ending.values()]]
        await asyncio.gather(*ends, return_exceptions=True)
        self._settle()

    def _settle(self) -> None:
        """Forget the sources that have ended. Raise what ended one, unless a new one may begin where it ended."""
        for sources in (self.sources, self._ending):
            for n, source in list(sources.items()):
                if not source.outcome.done():
                    continue
                del sources[n]
                try:
                    source.outcome.result()
                except (LeaseLostError, StateConflictError) as error:
                    logger.warning("%s; partition %d begins again with the pending entries", error, n)
                else:
                    if source.is_through:
                        self.finished[n] = source

    def _give_up(self) -> None:
        """Stop sources beyond the share, first those that do not read: another run owns their partitions."""
        waiting = [n for n in self.sources if n not in self.owned]
        lost = [n for n in waiting if self.share.owners.get(n, self._name(n)) != self._name(n)]
        excess = len(self.sources) - len(lost) - self.share.quota
        others = [*[n for n in waiting if n not in lost], *reversed(self.owned)]
        for n in [*lost, *others[: max(0, excess)]]:
            source = self._ending[n] = self.sources.pop(n)
            source.stop()

    def _take(self) -> None:
        """Start sources for partitions that no run reads, up to the share."""
        busy = self.share.owners.keys() | self.sources.keys() | self._ending.keys() | self.finished.keys()
        free = [n for n in self._all if n not in busy]
        for n in free[: max(0, self.share.quota - len(self.sources))]:
            source = self._build(n)
            source.start()
            self.sources[n] = source

    def _name(self, n: int) -> str:
        return self.sources[n].latest_run.consumer.membership.name
