"""The streamz sources: `Stream.from_redis` reads a consumer group, `Stream.engine` pumps and shows what it pushed."""

import asyncio
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, Literal, get_args

import redis
from streamz import Stream
from streamz.sources import Source

from tasks.ticks import Beat
from tasks.connection import connect
from tasks.consumer import Consumer, Poison
from tasks.entry import Entry
from tasks.errors import PipelineError, SettingsError, SluiceError
from tasks.pipeline import Receipt, secure
from tasks.pump import Pumping
from tasks.reservoir import Reservoir
from tasks.settings import check_topic, redis_url, seconds

__all__ = ["OnError", "engine", "from_redis"]

logger = logging.getLogger(__name__)

OnError = Literal["dead_letter", "stop"]
_BLOCK_MS = 100
_MAX_BACKOFF = 5.0


class _ThreadedSource(Source):
    """A source whose work is done in a thread of its own and ends in `outcome`, so that a pipeline that blocks its
    loop does not keep the source from living on, and stopping one source stops no other.
    """

    def __init__(self, *, start: bool, **kwargs: Any) -> None:
        self.outcome: Future[None] = Future()
        self._stopping = threading.Event()
        super().__init__(start=False, **kwargs)
        if start:
            self.start()

    def start(self) -> None:
        """Start, or start again after a stop. Raises what is wrong with the address or the server."""
        if not self.stopped:
            return
        self._prepare()
        self.stopped, self.started = False, True
        self.outcome = Future()
        self._stopping.clear()
        threading.Thread(target=self._run_thread, name=repr(self), daemon=True).start()

    def stop(self) -> None:
        """Ask to stop; `join` waits until it has."""
        self.stopped = True
        self._stopping.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the source has ended. Raises what ended it, if that was an error, and TimeoutError."""
        self.outcome.result(timeout)

    def _prepare(self) -> None:
        raise NotImplementedError

    def _work(self) -> None:
        raise NotImplementedError

    def _run_thread(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - it is handed on, to whoever asks for the outcome
            logger.error("%r stopped: %s", self, error, exc_info=not isinstance(error, SluiceError))
            self.stopped = True
            self.outcome.set_exception(error)
        else:
            self.stopped = True
            self.outcome.set_result(None)


@Stream.register_api(staticmethod)
class from_redis(_ThreadedSource):  # noqa: N801 - streamz names nodes like functions
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


@Stream.register_api(staticmethod)
class engine(_ThreadedSource):  # noqa: N801 - streamz names nodes like functions
    """Call `func` at every tick of the grid, push what it returns to `topic`, and emit what was pushed.

    topic       where to push
    func        a pump: returns a mapping of fields, a DataFrame, several of those, or None; may be async
    every       the time between ticks, above zero: '5s', 0.5, timedelta(seconds=1)
    threads     how many pumps may run at once; 0 for one, in the source's own thread
    timeout     how long one pump may take; needs threads
    url, client the reservoir; by default what the settings name
    keep        trim the topic to about this many entries
    raises      SettingsError, UnavailableError, at the start; PumpError, as the outcome
    """

    def __init__(
        self,
        topic: str,
        *,
        func: Callable[[], Any],
        every: str | float | timedelta,
        threads: int = 0,
        timeout: str | float | timedelta | None = None,
        url: str | None = None,
        client: redis.Redis | None = None,
        keep: int | None = 10_000,
        compression: str | None = None,
        max_failures: int = 10,
        start: bool = False,
        **kwargs: Any,
    ) -> None:
        self.topic = check_topic(topic)
        self.func = func
        self.every = seconds(every, name="every")
        self._timeout = None if timeout is None else seconds(timeout, name="timeout")
        self._threads = threads
        self._url = url
        self._client = client
        self._keep = keep
        self._compression = compression
        self._max_failures = max_failures
        super().__init__(start=start, **kwargs)

    def _prepare(self) -> None:
        client = self._client or connect(self._url or redis_url())
        name = getattr(self.func, "__name__", type(self.func).__name__)
        self._pumping = Pumping(
            self.func,
            name=name,
            beat=Beat(Reservoir(client, compression=self._compression), self.topic, name, every=self.every, keep=self._keep),
            threads=self._threads,
            timeout=self._timeout,
            max_failures=self._max_failures,
            stop=self._stopping,
            on_pushed=self._pushed,
        )

    def _work(self) -> None:
        self._pumping.run()

    def _pushed(self, ids: list[str], entries: list[Mapping[str, Any]]) -> None:
        """Emit what was pushed and wait until the pipeline has taken it, so that a slow one slows the pump."""
        for id_, fields in zip(ids, entries, strict=True):
            asyncio.run_coroutine_threadsafe(
                self._emit_pushed(Entry(fields, topic=self.topic, id=id_)), self.loop.asyncio_loop
            ).result()

    async def _emit_pushed(self, entry: Entry) -> None:
        """Show the pipeline what was pushed. What it makes of it is no concern of the pump's."""
        try:
            for one in self._emit(entry):
                await one
        except Exception:
            logger.exception("the pipeline behind %r raised on entry %s; the pump goes on", self, entry.id)
