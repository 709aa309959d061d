"""The streamz source `Stream.from_redis`: one member of a consumer group, and a pipeline behind it."""

import asyncio
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Literal, get_args

import redis
from streamz import Stream

from tasks.connection import connect
from tasks.consumer import Consumer, Poison
from tasks.entry import Entry
from tasks.errors import PipelineError, SettingsError
from tasks.pipeline import Receipt, secure
from tasks.settings import redis_url, seconds
from tasks.threaded import ThreadedSource

__all__ = ["OnError", "from_redis"]

logger = logging.getLogger(__name__)

OnError = Literal["dead_letter", "stop"]
_BLOCK_MS = 100
_MAX_PAUSE = 5.0
# Seconds without any acknowledgement after which a pipeline that waits for nothing will not finish any more.
_SETTLED = 0.3


@Stream.register_api(staticmethod)
class from_redis(ThreadedSource):  # noqa: N801 - streamz names nodes like functions
    """Read topics as one member of a consumer group and emit an `Entry` for each.

    At least once; each topic in id order, redelivered entries first. An entry is acknowledged when the
    pipeline is done with it. One that cannot be decoded goes to `<topic>:dead:<group>`, its bytes untouched.

    topics      a topic or several
    group       the consumer group; made if it does not exist
    url, client the reservoir; by default what the settings name
    start_from  where a new group begins: 'beginning', 'new', an ISO time or an entry id
    lease       how long this consumer may be silent before it counts as dead
    max_entries, max_bytes   bounds of what is read ahead
    grace       how long a stop waits for what is in flight
    on_error    what becomes of an entry on which the pipeline raised: 'dead_letter', it is moved to
                `<topic>:dead:<group>` and the stream goes on; 'stop', it stays pending and the source stops
    max_deliveries   how often an entry is delivered at most, each time because its consumer died with it; then
                it is moved to the dead letters
    raises      SettingsError, UnavailableError, PipelineError for a node that is not safe, at the start
    """

    def __init__(
        self,
        topics: str | Sequence[str],
        *,
        group: str,
        url: str | None = None,
        client: redis.Redis | None = None,
        start_from: str = "beginning",
        lease: str | float | timedelta = 10.0,
        max_entries: int = 256,
        max_bytes: int = 32 * 2**20,
        grace: str | float | timedelta = 20.0,
        on_error: OnError = "dead_letter",
        max_deliveries: int = 5,
        start: bool = False,
        **kwargs: Any,
    ) -> None:
        if on_error not in get_args(OnError):
            msg = f"on_error: expected one of {get_args(OnError)}, got {on_error!r}"
            raise SettingsError(msg)
        self.on_error = on_error
        self.topics = [topics] if isinstance(topics, str) else list(topics)
        self.group = group
        self._url = url
        self._given_client = self._client = client
        self._options = {
            "start_from": start_from,
            "lease_ttl": seconds(lease, name="lease"),
            "max_entries": max_entries,
            "max_bytes": max_bytes,
            "max_deliveries": max_deliveries,
        }
        self._grace = seconds(grace, name="grace")
        super().__init__(start=start, **kwargs)

    @property
    def client(self) -> redis.Redis:
        """A client of the same server, for what the pipeline wants of it; made once."""
        if self._client is None:
            self._client = connect(self._url or redis_url())
        return self._client

    def open(self) -> None:
        """Get ready to read. `start` does it by itself; `step` wants it first."""
        self.secured = secure(self)
        client = self._given_client or connect(self._url or redis_url(), retries=0)
        self._consumer = Consumer(client, self.topics, self.group, **self._options)
        self._failure: BaseException | None = None
        self._batches: deque[list[Entry | Poison]] = deque()
        self._arrived = asyncio.Event()
        self._room = threading.Event()
        self._drained = threading.Event()
        self._done: deque[Receipt] = deque()
        self._poison: deque[Poison] = deque()
        self._told: set[str] = set()
        self._pause = 0.0

    async def step(self, block_ms: int = 0) -> int:
        """Read once, emit what came and acknowledge what is done; return how many entries came.

        The source's unit of work, in one thread. `start` does the same with the reading in a thread of its own.

        raises    PipelineError: the pipeline raised; the entry stays pending
        """
        entries = self._consumer.step(block_ms)
        for entry in entries:
            await self._emit_entry(entry)
        self._flush()
        self._raise_failure()
        return len(entries)

    def close(self) -> None:
        """Acknowledge what is done, give back the rest and leave the group."""
        self._flush()
        self._consumer.leave()

    def _prepare(self) -> None:
        self.open()

    def _work(self) -> None:
        """Read ahead, acknowledge and hold the lease, until told to stop; then let what is in flight finish."""
        self.loop.add_callback(self.run)
        try:
            while not self._stopping.is_set():
                self._through_outages(self._read_on)
        finally:
            self._stopping.set()
            self._wake()
        self._drain()
        self._raise_failure()

    def _through_outages(self, act: Callable[[], None]) -> bool:
        """Return whether `act` came through; if Redis did not answer, say so once and wait a little, ever longer."""
        try:
            act()
        except (redis.ConnectionError, redis.TimeoutError) as error:
            if not self._pause:
                what = type(error).__name__
                logger.warning("Redis does not answer (%s); group %r tries again until it does", what, self.group)
            self._pause = min(_MAX_PAUSE, max(0.1, self._pause * 2))
            self._stopping.wait(self._pause)
            return False
        if self._pause:
            logger.warning("Redis answers again; group %r goes on", self.group)
            self._pause = 0.0
        return True

    def _read_on(self) -> None:
        self._tend()
        if self._batches:
            self._room.wait(_BLOCK_MS / 1000)
            self._room.clear()
        elif entries := self._read():
            self._batches.append(entries)
            self._wake()

    def _tend(self) -> None:
        self._flush()
        self._consumer.renew()

    def _drain(self) -> None:
        """Wait until nothing in flight gets any further, acknowledge what is done and give back the rest.

        What stays in a window never gets further. Bounded by the grace period; the lease is held on meanwhile.
        """
        end = time.monotonic() + self._grace
        if self._drained.wait(min(1.0, self._grace)):
            for meter in self.secured.meters:
                if before_stop := getattr(meter.node, "before_stop", None):
                    before_stop()
        held, since = -1, time.monotonic()
        while (now := time.monotonic()) < end and self._consumer.held:
            self._through_outages(self._tend)
            if self._consumer.held != held or self.secured.waiting or not self._drained.is_set():
                held, since = self._consumer.held, now
            elif now - since > _SETTLED:
                break
            time.sleep(_SETTLED / 10)
        if not self._drained.is_set():
            logger.warning("group %r: the pipeline is still busy after %g s; its entry is given back", self.group, self._grace)
        if not self._through_outages(self.close):
            logger.warning("group %r: what is in flight is redelivered when its lease has run out", self.group)

    def _read(self) -> list[Entry | Poison]:
        began = time.monotonic()
        entries = self._consumer.step(_BLOCK_MS)
        if not entries:  # fakeredis does not block
            self._stopping.wait(began + _BLOCK_MS / 1000 - time.monotonic())
        return entries

    def _wake(self) -> None:
        self.loop.add_callback(self._arrived.set)

    def _flush(self) -> None:
        """Acknowledge what is done, and put away what failed or is poison."""
        while self._poison:
            bad = self._poison[0]
            self._consumer.dead_letter(bad.topic, bad.id, node="decode", exception=repr(bad.error))
            self._poison.popleft()
            logger.warning("%s; moved to the dead letters of group %r", bad.error, self.group)
        ended = [self._done[i] for i in range(len(self._done))]
        done: defaultdict[str, list[str]] = defaultdict(list)
        for receipt in ended:
            if receipt.failure is None:
                done[receipt.topic].append(receipt.id)
            elif self.on_error == "dead_letter":
                self._consumer.dead_letter(
                    receipt.topic,
                    receipt.id,
                    node=receipt.failure.node,
                    exception=repr(receipt.failure.error),
                    traceback=receipt.failure.traceback,
                )
        for topic, ids in done.items():
            self._consumer.ack(topic, ids)
        for _ in ended:
            self._done.popleft()

    async def run(self) -> None:
        """Emit what was read, one entry after the other, in the loop of the graph."""
        try:
            while not self._stopping.is_set():
                if not self._batches:
                    await self._arrived.wait()
                    self._arrived.clear()
                    continue
                batch = self._batches.popleft()
                self._room.set()
                for entry in batch:
                    if self._stopping.is_set():
                        break
                    await self._emit_entry(entry)
                await asyncio.sleep(0)
        finally:
            self._drained.set()

    async def _emit_entry(self, entry: Entry | Poison) -> None:
        if isinstance(entry, Poison):
            self._poison.append(entry)
            return
        receipt = Receipt(entry.topic, entry.id, group=self.group, done=self._done.append, failed=self._failed)
        for one in self._emit(entry, metadata=[{"ref": receipt}]):
            await one
        receipt.release()

    def _failed(self, receipt: Receipt) -> None:
        failure = receipt.failure
        assert failure is not None  # noqa: S101 - it has just been set
        what = (
            f"topic {receipt.topic!r} entry {receipt.id}: node {failure.node!r} of group {self.group!r} raised "
            f"{type(failure.error).__name__}: {failure.error}"
        )
        if self.on_error == "stop":
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
