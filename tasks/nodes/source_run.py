"""One run of `Stream.from_redis`, from a start to a stop: its two threads and the hand-over between them."""

from collections.abc import Callable
from typing import Any

import redis
from streamz import Stream

from tasks.group.attempts import Attempts
from tasks.group.consumer import Consumer
from tasks.group.delivery import Undecodable
from tasks.group.ownership import Ownership
from tasks.nodes.acknowledger import Acknowledger
from tasks.nodes.emitter import Emitter, OnError
from tasks.nodes.hand_over import HandOver
from tasks.nodes.isolation import Isolation
from tasks.nodes.reader import Reader
from tasks.pipeline.guard import Secured
from tasks.pipeline.receipts import Receipt
from tasks.pipeline.retry import Retry
from tasks.pipeline.retrying import Retried
from tasks.reservoir.entry import Entry
from tasks.state.store import StateStore

__all__ = ["OnError", "SourceRun"]


class SourceRun:
    """A consumer and the source node that it reads for.

    The reader's thread (`Reader`, with `Acknowledger`, `Isolation` and the consumer) talks to Redis. The graph's thread
    (`Emitter`) emits entries. `HandOver` carries entries between the two, and `InFlight` shows what the graph holds.
    Started, `run` occupies the reader's thread. Stepped, one thread does the work of both.

    grace    seconds for which a stop waits for entries in flight
    batch    emit lists of at most this many entries; None: emit single entries
    fuse     whether runs of simple nodes are done in one call
    max_state   upper bound of the state that is kept, in bytes; None: keep none
    retry    how nodes without options of their own try failed calls again
    client   returns a client of the reservoir for the graph's thread; default: that of the consumer, if one thread does all
    """

    def __init__(
        self,
        consumer: Consumer,
        node: Stream,
        *,
        on_error: OnError,
        grace: float,
        batch: int | None = None,
        fuse: bool = True,
        max_state: int | None = None,
        retry: Retry | None = None,
        client: Callable[[], redis.Redis] | None = None,
    ) -> None:
        self.consumer = consumer
        self._loop: Any = node.loop
        self._hand_over = HandOver(self._loop)
        self._emitter = Emitter(
            node,
            self._hand_over,
            fence=consumer.membership.fence,
            group=consumer.group,
            on_error=on_error,
            batch=batch,
            fuse=fuse,
            max_state=max_state,
            retry=retry,
        )
        self._in_flight = self._emitter.in_flight
        self._attempts = Attempts(
            client or (lambda: consumer.client), consumer.membership.fence, forgets_last=on_error == "stop"
        )
        self._hand_over.at_end = self._attempts.end_pauses
        self.secured.attempts[consumer.membership.fence.lease] = self._attempts
        self._in_flight.expect = consumer.expect = self._attempts.unknown.add
        self.store = None if self._emitter.cutter is None else StateStore(consumer.client, consumer)
        """Where the state of the graph is kept, if it is."""
        self._acknowledger = Acknowledger(consumer, self._hand_over, on_error=on_error, store=self.store)
        self._isolation = Isolation(consumer, self._in_flight)
        self._reader = Reader(
            consumer,
            self._hand_over,
            self._in_flight,
            self._acknowledger,
            self._isolation,
            grace=grace,
            ownership=self._ownership(),
            store=self.store,
            retried=lambda: self.retried,
        )
        if self.store is not None:
            # Entries must not count twice, and none may be skipped by a group that is created anew.
            consumer.skips_held = True
            consumer.before_restore = self.store.expect_ownership
        consumer.describe_dead_letters(lambda: self._hand_over.letter_fields)

    def _ownership(self) -> Ownership | None:
        consumer = self.consumer
        if self.store is None and consumer.partition is None:
            return None
        cure = (
            "for several runs side by side use keep_state=False"
            if consumer.partition is None
            else "it gives it up soon"
        )
        return Ownership(consumer.client, consumer.membership, consumer.scope, cure=cure)

    # --- any thread ---

    @property
    def is_owner(self) -> bool:
        """Whether this run owns what it reads, where only one consumer of the group may read it."""
        return self._reader.is_owner

    @property
    def secured(self) -> Secured:
        """The guarded graph."""
        return self._emitter.secured

    @property
    def in_flight(self) -> int:
        """The number of entries that the graph holds."""
        return len(self._in_flight)

    @property
    def receipts(self) -> frozenset[Receipt]:
        """The receipts of the entries that the graph holds."""
        return self._in_flight.receipts

    @property
    def is_busy(self) -> bool:
        """Whether the graph is working on an entry, beyond keeping it for later elements."""
        return self._in_flight.is_busy

    @property
    def retried(self) -> list[Retried]:
        """The calls that have failed and are tried again."""
        return list(self.secured.retried.values())

    @property
    def progress(self) -> tuple[int, int]:
        """Numbers that change whenever an entry moves on."""
        return self._in_flight.progress

    @property
    def memory(self) -> list[tuple[str, int, int]]:
        """Name, number of fields and bytes of each node's kept state, as of the last cut."""
        return [] if self._emitter.cutter is None else self._emitter.cutter.sizes

    @property
    def ends(self) -> dict[str, str]:
        """The id of the last entry of a bounded replay, for each topic where it is known by now."""
        return dict(self.consumer.ends)

    @property
    def is_through(self) -> bool:
        """Whether everything up to `until` was read."""
        return self.consumer.is_through

    def stop(self) -> None:
        """Let the run end; `run` returns when it has."""
        self._hand_over.stop()

    # --- the reader's thread, of a run that was started ---

    def run(self) -> None:
        """Emit in the graph's loop, and read in this thread, until stopped; then let entries in flight finish.

        raises    PipelineError: the pipeline raised, and on_error is 'stop'; LeaseLostError: taken for dead
        """
        self._loop.add_callback(self._emitter.run)
        self._reader.run()
        self._hand_over.raise_failure()

    # --- the only thread, of a run that is stepped ---

    async def step(self, block_ms: int = 0) -> int:
        """Read once, emit the entries and acknowledge the finished ones; return the number of entries read."""
        if not self.is_admitted():
            return 0
        read = self.consumer.step(block_ms)
        await self.emit(read)
        if not read:
            await self.pass_time()
        self.flush()
        if self.consumer.returned_poison_candidates:
            self._isolation.begin(read)
            self._isolation.update()
        self._hand_over.raise_failure()
        return len(read)

    def is_admitted(self) -> bool:
        """Whether this run may read: where state is kept, the runs of a group read one at a time."""
        return self._reader.is_admitted()

    async def emit(self, read: list[Entry | Undecodable]) -> None:
        """Emit entries that the consumer has returned; put those aside that cannot be decoded."""
        await self._emitter.emit(self._acknowledger.put_aside(read))

    async def pass_time(self) -> None:
        """Let nodes emit what time has made due."""
        if self._hand_over.due is not None:
            await self._emitter.pass_time(self._reader.known_up_to())

    @property
    def due(self) -> int | None:
        """When a node may emit because time passes, in ms since the epoch; None: never."""
        return self._hand_over.due

    def set_clock(self, known_up_to: Callable[[], int]) -> None:
        """Use another clock than Redis' for nodes that emit because time passes. The function returns ms since the epoch."""
        self._reader.known_up_to = known_up_to

    def flush(self) -> None:
        """Acknowledge finished entries; dead-letter those that failed or cannot be decoded."""
        self._emitter.cut()
        self._acknowledger.flush()

    def flush_nodes(self) -> bool:
        """Have nodes write the entries that they hold for later; return whether all could."""
        return self._emitter.flush_nodes()

    def close(self) -> None:
        """Acknowledge finished entries, give all others back and leave the group. For a run that is stepped."""
        self.flush()
        self._reader.close()
