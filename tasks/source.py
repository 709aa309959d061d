"""The streamz source `Stream.from_redis`: one member of a consumer group, and a pipeline behind it."""

import asyncio
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence
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
_MAX_BACKOFF = 5.0


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
    grace       how long a stop waits for the entry that is being processed
    on_error    what becomes of an entry on which the pipeline raised: 'dead_letter', it is moved to
                `<topic>:dead:<group>` and the stream goes on; 'stop', it stays pending and the source stops
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
        """Read ahead, acknowledge and hold the lease, until told to stop."""
        pause = 0.0
        self.loop.add_callback(self.run)
        while not self._stopping.is_set():
            try:
                self._flush()
                self._consumer.renew()
                if self._batches:
                    self._room.wait(_BLOCK_MS / 1000)
                    self._room.clear()
                    continue
                self._hand_over(self._read())
                pause = 0.0
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if not pause:
                    logger.warning(
                        "Redis does not answer (%s); group %r tries again until it does", type(error).__name__, self.group
                    )
                pause = min(_MAX_BACKOFF, max(0.1, pause * 2))
                self._stopping.wait(pause)
        self._wake()
        if not self._drained.wait(self._grace):
            logger.warning(
                "group %r: the pipeline was still busy after %g s; what it holds is given back", self.group, self._grace
            )
        self.close()
        self._raise_failure()

    def _read(self) -> list[Entry | Poison]:
        began = time.monotonic()
        entries = self._consumer.step(_BLOCK_MS)
        if not entries:  # fakeredis does not block
            self._stopping.wait(began + _BLOCK_MS / 1000 - time.monotonic())
        return entries

    def _hand_over(self, entries: list[Entry | Poison]) -> None:
        if entries:
            self._batches.append(entries)
            self._wake()

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
