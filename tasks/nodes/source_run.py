"""One run of `Stream.from_redis`: reads ahead in a thread, emits in the graph's loop, acknowledges what is done."""

import asyncio
import itertools
import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, Literal

from streamz import Stream

from tasks.base.logs import get_logger
from tasks.base.plain_text import error_line
from tasks.base.repeated_warnings import Repeated
from tasks.errors import PipelineError
from tasks.group.consumer import Consumer
from tasks.group.delivery import Poison
from tasks.pipeline.guard import Secured, combining, secure
from tasks.pipeline.receipts import LazyReceipts, Receipt
from tasks.reservoir.entry import Entry
from tasks.reservoir.outages import Outages

__all__ = ["OnError", "Reading"]

logger = get_logger(__name__)

OnError = Literal["dead_letter", "stop"]

_BLOCK_MS = 100
_SHORT_BLOCK_MS = 5
# Seconds without any acknowledgement after which a pipeline that waits for nothing will not finish any more.
_SETTLED = 0.3
# Seconds for which the entries behind some that may be deadly wait until one more of these is done or at rest.
_CAREFUL = 5.0
# Seconds between acknowledgements while there is more to do: each costs a round trip, and waits for the pipeline's thread
# to let go of the interpreter.
_FLUSH = 0.01
# Seconds for which a pipeline may have its loop for itself, if it never waits for anything.
_SLICE = 0.005
_NAMED = 8  # nodes, in a dead letter
_LOOK = 32  # elements between two looks at the clock


class Reading:
    """A consumer and the source node it reads for, from a start to a stop.

    Four lists join the two threads, all of them deques that one side appends to and the other takes from: batches that
    were read, entries that went through in one go, receipts of others that are done, and entries that cannot be decoded.

    grace    seconds a stop waits for what is in flight
    batch    how many entries an element is a list of, at most; None: an element is an entry
    fuse     whether runs of simple nodes are done in one call
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
    ) -> None:
        self.secured: Secured = secure(node, fuse=fuse)
        self.consumer = consumer
        consumer.about_letters = lambda: {"combines": json.dumps(combining(node)[:_NAMED])}
        self._node: Any = node
        self._on_error = on_error
        self._grace = grace
        self._batch = batch
        self._group = consumer.group
        self._fence = consumer.membership.fence
        self._stopping = threading.Event()
        self._outages = Outages(
            consumer.group,
            longest_pause=consumer.membership.lease_ttl / 4,
            wait=self._stopping.wait,
            explain=consumer.explained,
        )
        self._failure: BaseException | None = None
        self._batches: deque[list[Entry | Poison]] = deque()
        self._arrived = asyncio.Event()
        self._room = threading.Event()
        self._drained = threading.Event()
        self._through: deque[tuple[str, str]] = deque()
        self._done: deque[Receipt] = deque()
        self._acknowledging: tuple[list[tuple[str, str]], list[Receipt]] = ([], [])
        self._failed: deque[Receipt] = deque()
        self._poison: deque[Poison] = deque()
        self._told: set[str] = set()
        self._warn = Repeated(logger)
        self._next_flush = 0.0
        self._was_busy = False
        self._yielded = 0.0
        self._emitted = LazyReceipts(self._receipts)
        self._suspects: set[tuple[str, str]] = set()
        self._careful_until = 0.0
        self._open: set[Receipt] = set()
        self._progress = (0, 0)

    @property
    def in_flight(self) -> int:
        """How many entries the graph holds."""
        return len(self._open) + (0 if self._emitted.made else len(self._emitted.entries))

    @property
    def receipts(self) -> frozenset[Receipt]:
        """The receipts of the entries that the graph holds."""
        return frozenset(self._open)

    @property
    def is_busy(self) -> bool:
        """Whether something is being done with an entry, more than keeping it for elements to come."""
        return bool(self._emitted.entries) or not all(receipt.is_at_rest for receipt in list(self._open))

    @property
    def progress(self) -> tuple[int, int]:
        """What changes whenever an entry gets any further: how many are in flight, and what all nodes received."""
        return self.in_flight, sum(meter.received for meter in list(self.secured.meters))

    @property
    def ends(self) -> dict[str, str]:
        """Where a bounded replay ends: the id of the last entry, of each topic where it is known yet."""
        return dict(self.consumer.ends)

    @property
    def is_through(self) -> bool:
        """Whether everything up to `until` was read."""
        return self.consumer.is_through

    def run(self) -> None:
        """Read ahead, acknowledge and hold the lease, until told to stop; then let what is in flight finish.

        raises    PipelineError: the pipeline raised, and on_error is 'stop'; LeaseLostError: taken for dead
        """
        self._node.loop.add_callback(self.emit_all)
        try:
            self._read_until_stopped()
            self._drain()
        finally:
            self.consumer.hang_up()
        self._warn.flush()
        self._raise_failure()

    def stop(self) -> None:
        """Ask to stop."""
        self._stopping.set()

    async def step(self, block_ms: int = 0) -> int:
        """Read once, emit what came and acknowledge what is done, in one thread; return how many entries came."""
        entries = self.consumer.step(block_ms)
        await self.emit(entries)
        self.flush()
        if self.consumer.is_careful:
            self._watch_suspects(entries)
            self._see_through()
        self._raise_failure()
        return len(entries)

    def close(self) -> None:
        """Acknowledge what is done, give back the rest and leave the group."""
        self._tend()
        self.consumer.leave()

    async def emit_all(self) -> None:
        """Emit what was read, one entry after the other, in the loop of the graph."""
        try:
            while not self._stopping.is_set():
                if self._batches:
                    await self.emit(self._batches.popleft())
                else:
                    await self._arrived.wait()
                    self._arrived.clear()
        except BaseException as error:
            self._failure = self._failure or error
            raise
        finally:
            self.stop()
            self._drained.set()

    async def emit(self, read: list[Entry | Poison]) -> None:
        """Emit what was read, one element after the other, each once the one before has been awaited; until told to stop."""
        self._room.set()
        secured = secure(self._node)  # nodes may have been added
        emit = secured.fusion.emitter(self._node)
        emitted, is_batch, is_stopping = self._emitted, self._batch is not None, self._stopping.is_set
        through = self._through.append
        for n, element in enumerate(self._elements(read)):
            if is_stopping():
                return
            emitted.entries = element if is_batch else (element,)
            for one in emit(element, emitted):
                await one
            if is_batch or emitted.made:
                self._let_go()
            else:  # as nearly all
                emitted.entries = ()
                through(element.origin)
            # Slow elements are timed, all of them; of quick ones a look at the clock would be a tenth.
            if secured.nested > _SLICE or not n % _LOOK:
                secured.nested = 0.0
                if time.monotonic() - self._yielded > _SLICE:
                    await asyncio.sleep(0)
                    self._yielded = time.monotonic()

    def _elements(self, read: list[Entry | Poison]) -> list[Any]:
        """Return what is to be emitted; put aside what cannot be decoded."""
        entries: list[Any] = read
        if Poison in map(type, read):
            self._poison.extend([bad for bad in read if isinstance(bad, Poison)])
            entries = [entry for entry in read if isinstance(entry, Entry)]
        if self._batch is None:
            return entries
        return [entries[start : start + self._batch] for start in range(0, len(entries), self._batch)]

    def _receipts(self, entries: Sequence[Entry]) -> list[Receipt]:
        fence, done, failed = self._fence, self._finish, self._fail
        made = [Receipt(*entry.origin, fence=fence, done=done, failed=failed) for entry in entries]
        self._open.update(made)
        return made

    def _let_go(self) -> None:
        """Let go of what was emitted last and has been awaited."""
        emitted = self._emitted
        entries, emitted.entries = emitted.entries, ()
        if emitted.made:
            made, emitted.made = emitted.made, []
            for receipt in made:
                receipt.release()
        else:
            self._through.extend([entry.origin for entry in entries])

    def _finish(self, receipt: Receipt) -> None:
        self._open.discard(receipt)
        self._done.append(receipt)

    def _fail(self, receipt: Receipt) -> None:
        failure = receipt.failure
        assert failure is not None  # it has just been set
        what = (
            f"topic {receipt.topic!r} entry {receipt.id}: node {failure.node!r} of group {self._group!r} raised "
            f"{error_line(failure.error)}"
        )
        if self._on_error == "stop":
            if self._failure is None:
                self._failure = PipelineError(f"{what}; it stays pending and is redelivered at the next start")
                self._failure.__cause__ = failure.error
            self.stop()
        elif failure.node not in self._told:
            self._told.add(failure.node)
            logger.warning("%s; moved to the dead letters, as all that fail there", what)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _wake(self) -> None:
        self._node.loop.add_callback(self._arrived.set)

    def _read_until_stopped(self) -> None:
        try:
            while not self._stopping.is_set():
                self._outages.pass_through(self._read_on)
        finally:
            self.stop()
            self._wake()

    def _read_on(self) -> None:
        is_careful = bool(self._suspects) and time.monotonic() < self._careful_until
        if is_careful or not self._was_busy or time.monotonic() >= self._next_flush:
            self._tend()
            self._next_flush = time.monotonic() + _FLUSH
        if is_careful:
            if self._see_through():
                self._stopping.wait(0.001)
        elif len(self._batches) > (0 if self.consumer.has_suspects else 1):
            if not self._room.wait(_BLOCK_MS / 1000):
                self.consumer.fetch()
            self._room.clear()
        elif self.consumer.is_through:
            self._stop_when_done()
        elif entries := self._read():
            self._batches.append(entries)
            self._wake()
            if self.consumer.is_careful:
                self._watch_suspects(entries)

    def _read(self) -> list[Entry | Poison]:
        began = time.monotonic()
        # Behind the last of many entries only briefly, so that it is soon acknowledged.
        block_ms = _SHORT_BLOCK_MS if self._was_busy else _BLOCK_MS
        entries = self.consumer.step(block_ms, ahead=True)
        if not entries:  # it may come back early, having restored its groups, say: no busy loop
            self._stopping.wait(began + block_ms / 1000 - time.monotonic())
        self._was_busy = bool(entries)
        return entries

    def _stop_when_done(self) -> None:
        """Stop once all that was read is done, or is only kept for elements that will not come."""
        progress, self._progress = self._progress, self.progress
        if self.consumer.held > self.in_flight or self._progress != progress:
            self._stopping.wait(_BLOCK_MS / 1000)
            return
        if self.flush_nodes() and not self.is_busy:
            self.stop()

    def flush_nodes(self) -> bool:
        """Have nodes write what they hold to be written later; return whether all could."""
        calls = [getattr(meter.node, "before_stop", None) for meter in list(self.secured.meters)]
        return False not in [call() for call in calls if call]

    def _watch_suspects(self, entries: list[Entry | Poison]) -> None:
        """Have nothing read until these are seen through, so that no others are in flight if one kills this consumer."""
        self._suspects = {entry.origin for entry in entries}
        self._careful_until = time.monotonic() + _CAREFUL

    def _see_through(self) -> int:
        """Let go of suspects that are done, and clear those that killed nobody and are only kept; return how many are left."""
        left = {origin for origin in self._suspects if self.consumer.holds(*origin)}
        at_rest = left & {(one.topic, one.id) for one in list(self._open) if one.is_at_rest}
        for topic in {topic for topic, _ in at_rest}:
            self.consumer.absolve(topic, [id_ for of, id_ in at_rest if of == topic])
        left -= at_rest
        if len(left) < len(self._suspects):
            self._careful_until = time.monotonic() + _CAREFUL
        self._suspects = left
        return len(left)

    def _tend(self) -> None:
        self.consumer.renew()
        self.flush()

    def flush(self) -> None:
        """Acknowledge what is done, and put away what failed or is poison."""
        while self._poison:
            bad = self._poison[0]
            self.consumer.dead_letter(*bad.origin, node="decode", exception=repr(bad.error))
            self._poison.popleft()
            self._warn(
                f"moved to the dead letters of group {self._group!r} what cannot be decoded", detail=str(bad.error)
            )
        through, ended = self._acknowledging
        through += _taken(self._through)
        for receipt in _taken(self._done):
            if receipt.failure is None:
                ended.append(receipt)
            elif self._on_error == "dead_letter":
                self._failed.append(receipt)
        while self._failed:
            failed = self._failed[0]
            assert failed.failure is not None  # or it would not be among these
            self.consumer.dead_letter(
                failed.topic,
                failed.id,
                node=failed.failure.node,
                exception=repr(failed.failure.error),
                traceback=failed.failure.traceback,
            )
            self._failed.popleft()  # at once: what follows may have to be sent again, and this must not
        done: defaultdict[str, list[str]] = defaultdict(list)
        for topic, id_ in itertools.chain(through, ((one.topic, one.id) for one in ended)):
            done[topic].append(id_)
        with_results = {one.id for one in ended if one.has_results}
        if done:
            self.consumer.ack_all(done, with_results=with_results)
        through.clear()  # only now: an outage on the way, and all of it is sent again
        ended.clear()

    def _drain(self) -> None:
        """Wait until nothing in flight gets any further, acknowledge what is done and give back the rest.

        What stays in a window never gets further. Bounded by the grace period; the lease is held on meanwhile.
        """
        end = time.monotonic() + self._grace
        self._drained.wait(min(1.0, self._grace))
        held, since, is_flushed = -1, time.monotonic(), False
        while (now := time.monotonic()) < end and self.consumer.held:
            if self._drained.is_set() and not is_flushed:
                is_flushed = True
                self.flush_nodes()
            self._outages.pass_through(self._tend)
            if self.consumer.held != held or self.secured.waiting or not self._drained.is_set():
                held, since = self.consumer.held, now
            elif now - since > _SETTLED:
                break
            time.sleep(_SETTLED / 10)
        if not self._drained.is_set():
            logger.warning(
                "group %r: the pipeline is still busy after %g s; its entry is given back", self._group, self._grace
            )
        if not self._outages.pass_through(self.close):
            logger.warning("group %r: what is in flight is redelivered when its lease has run out", self._group)


def _taken(queue: deque[Any]) -> list[Any]:
    """Take what is in a queue by now, to which another thread appends."""
    return [queue.popleft() for _ in range(len(queue))]
