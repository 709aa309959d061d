"""The streamz source `Stream.from_redis`: one member of a consumer group that feeds a pipeline."""

import contextvars
import functools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, get_args

import redis
from streamz import Stream

from tasks.checks import check_choice, check_number, seconds
from tasks.codec.decoding import DecodeFunction, DecodeWord, Decoding, Frames
from tasks.errors import PipelineError
from tasks.group.consumer import Consumer
from tasks.group.membership import LEAST_LEASE, Membership
from tasks.group.read_size import MAX_BYTES, MAX_ENTRIES, USUAL_ENTRIES
from tasks.nodes.source_run import OnError, SourceRun
from tasks.nodes.threaded import ThreadedSource
from tasks.pipeline import lifetimes
from tasks.pipeline.retry import Covers, Pauses, Retry
from tasks.reservoir.connection import adapted, connect
from tasks.reservoir.keys import state_key, state_scope
from tasks.reservoir.partitions import declared, partition_topic
from tasks.reservoir.topic_names import is_topic
from tasks.settings import redis_url
from tasks.state.bounds import DEFAULT_MAX_STATE, state_bytes

__all__ = ["from_redis"]


@Stream.register_api(staticmethod)
class from_redis(ThreadedSource):  # noqa: N801 - streamz names nodes like functions
    """Read topics as one member of a consumer group and emit an `Entry` for each.

    At least once; each topic in id order, redelivered entries first. An entry is acknowledged when the
    pipeline has finished with it. An entry that cannot be decoded moves to `<topic>:dead:<group>`, its bytes untouched.

    topics      one topic, or several that are merged by entry id: a replay has the order of the live run. Of a partitioned
                topic all partitions are read, merged in the same way
    group       the consumer group; created if it does not exist
    url, client  the reservoir; by default the one from the settings
    start_from  where a new group begins: 'beginning', 'new', an ISO time or an entry id
    until       where a bounded replay ends: 'now', an ISO time or an entry id, inclusive. The source stops when it has
                finished with the entries it read; entries in windows stay pending. Default: never
    partition   the partition that `topics` are, one of each partitioned topic. One consumer of the group at a time reads it,
                and its kept state is its own; see `Replica` for runs that share partitions
    lease       the time without a renewal after which this consumer counts as dead
    max_entries, max_bytes   upper bounds per read; up to four reads are in memory, and a fifth may be in transit. A read has more
                than 256 entries only while the pipeline is done with it in less than 0.1 s
    batch       emit lists of up to this many available entries; no entry waits for others. If the pipeline raises on a
                list, all of its entries have failed
    decode      how fields become values: 'auto', 'text', 'bytes', 'json', or a function of an entry's raw fields, pairs of
                bytes, that returns a dict ([other-programs.md](other-programs.md))
    frames      the type of decoded frames: 'pandas', 'polars', or 'arrow' for a pyarrow Table
    fuse        call adjacent `map`, `filter`, `pluck`... nodes in one step, which only makes them faster
    keep_state  store what `accumulate`, `unique`, `slice` and keyed states remember with the acknowledgements of the entries
                that it was made of, so that it survives restarts and crashes. One consumer of the group reads at a time. False:
                these nodes begin anew with each run
    max_state   the largest state of all nodes, such as '64MB'; the source ends with a PipelineError when it grows beyond
    grace       how long a stop waits for entries in flight
    on_error    if the pipeline raises on an entry: 'dead_letter' moves the entry to `<topic>:dead:<group>` and the stream
                continues; 'stop' leaves it pending and stops the source
    max_deliveries   after this many deliveries to consumers that died, an entry becomes a dead letter
    retry       pauses such as '1s, 5s, 30s', after which the failed call of a `map`, `starmap`, `map_async`, `sink` or `to_sink` without
                `retry` of its own is repeated, instead of failing the entry at once ([sinks.md](sinks.md))
    hold        repeat the last pause for as long as the call fails
    overtake    let later elements pass while one is tried again, except in `map_async` and `to_sink`
    retry_on    the exceptions that are worth another attempt: types, or a function of an exception. Default: all but
                `RejectedError`
    raises      SettingsError, UnavailableError, PipelineError for an unsafe node: at the start
    """

    def __init__(
        self,
        topics: str | Sequence[str],
        *,
        group: str,
        url: str | None = None,
        client: redis.Redis | None = None,
        start_from: str = "beginning",
        until: str | None = None,
        partition: int | None = None,
        lease: str | float | timedelta = 10.0,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        grace: str | float | timedelta = 20.0,
        on_error: OnError = "dead_letter",
        max_deliveries: int = 5,
        batch: int | None = None,
        decode: DecodeWord | DecodeFunction = "auto",
        frames: Frames = "pandas",
        fuse: bool = True,
        keep_state: bool = True,
        max_state: str | int = DEFAULT_MAX_STATE,
        retry: Pauses | None = None,
        hold: bool = False,
        overtake: bool = False,
        retry_on: Covers | None = None,
        start: bool = False,
        **kwargs: Any,
    ) -> None:
        if batch is not None:
            check_number(batch, least=1, name="batch")
        check_number(max_entries, least=1, name="max_entries")
        check_number(max_bytes, least=1, name="max_bytes")
        check_number(max_deliveries, least=1, name="max_deliveries")
        check_choice(on_error, get_args(OnError), name="on_error")
        self.on_error: OnError = on_error
        self._names = [topics] if isinstance(topics, str) else list(topics)
        self.topics = self._names
        """The streams that are read: the topics, and from the first start all partitions of partitioned ones."""
        self.group = group
        self.partition_number = partition  # `partition` is a node of streamz
        self._url = url
        self._client = client and adapted(client)
        self._given_client = self._client
        self._own_clients: list[redis.Redis] = [] if self._client in (client, None) else [self._client]
        self._new_consumer = functools.partial(
            Consumer,
            group=group,
            start_from=start_from,
            until=until,
            partition=partition,
            lease_ttl=seconds(lease, name="lease", least=LEAST_LEASE),
            max_entries=max(max_entries, batch or 0),
            usual_entries=max(USUAL_ENTRIES, batch or 0),
            max_bytes=max_bytes,
            max_deliveries=max_deliveries,
            decoding=Decoding(decode=decode, frames=frames),
        )
        self._grace = seconds(grace, name="grace")
        self._batch, self._fuse = batch, fuse
        self._max_state = state_bytes(max_state) if keep_state else None
        self._retry = Retry.of(retry, hold=hold, overtake=overtake, retry_on=retry_on)
        super().__init__(start=start, **kwargs)

    @property
    def client(self) -> redis.Redis:
        """A client of the same server for nodes of the pipeline, created at the first use."""
        if self._client is None:
            self._client = connect(self._url or redis_url())
            self._own_clients.append(self._client)
        return self._client

    def open(self) -> SourceRun:
        """Make a run without starting it. Needed before `step`; `start` calls it.

        raises    PipelineError: no node is connected, a node is not safe, or nodes still hold entries of an earlier run
        """
        if not self.downstreams:
            msg = (
                f"{self!r}: expected a pipeline, found no connected node: every entry would be acknowledged unprocessed; end the "
                "pipeline in a sink, or keep its last node in a variable (streamz holds nodes weakly)"
            )
            raise PipelineError(msg)
        if isinstance(self._current, SourceRun) and self._current.in_flight:
            msg = (
                f"{self!r}: expected nodes without entries, got {self._current.in_flight} entries of the last run, which are "
                "redelivered now and would be in the nodes twice; build a new pipeline"
            )
            raise PipelineError(msg)
        # A client that retries a read whose reply was lost would silently return later entries.
        given = self._given_client
        client = adapted(given, retries=0) if given else connect(self._url or redis_url(), retries=0)
        self._own_clients.append(client)
        self.topics = [stream for topic in self._names for stream in self._streams(client, topic)]
        consumer = self._new_consumer(client, topics=self.topics)
        self._current = run = SourceRun(
            consumer,
            self,
            on_error=self.on_error,
            grace=self._grace,
            batch=self._batch,
            fuse=self._fuse,
            max_state=self._max_state,
            retry=self._retry,
            client=lambda: self.client,
        )
        run.secured.context = contextvars.copy_context()
        lifetimes.begin(self)
        self.is_running = True
        return run

    @property
    def latest_run(self) -> SourceRun:
        """The current run, or the last one if none is under way. Only after `open` or `start`."""
        assert isinstance(self._current, SourceRun)
        return self._current

    async def step(self, block_ms: int = 0) -> int:
        """Read once, emit the entries and acknowledge the finished ones; return the number of entries read.

        One thread does all the work. After `start`, a thread of its own reads ahead instead.

        raises    PipelineError: the pipeline raised, and on_error is 'stop'; the entry stays pending
        """
        return await self.latest_run.step(block_ms)

    @property
    def is_through(self) -> bool:
        """Whether everything up to `until` was read."""
        return isinstance(self._current, SourceRun) and self._current.is_through

    def drop_group(self) -> bool:
        """Delete the group on its topics, with its pending entries; return whether it was deleted.

        It stays while another of its consumers on these topics is alive. A group of the same name on other topics is another
        group.
        """
        if Membership(self.client, self.group).living(self.topics):
            return False
        for topic in self.topics:
            self.client.xgroup_destroy(topic, self.group)
        self.client.unlink(state_key(state_scope(self.group, self.partition_number)))
        self._disconnect()
        return True

    def close(self) -> None:
        """Acknowledge finished entries, give back the rest and leave the group. Ends a run that was stepped."""
        self.latest_run.close()
        self.let_go()

    def let_go(self) -> None:
        """Release the graph and close connections; the source can be started again."""
        super().let_go()
        self._disconnect()
        self._own_clients = [client for client in self._own_clients if client is self._client]

    def _streams(self, client: redis.Redis, topic: str) -> list[str]:
        """Return the streams of a topic: itself, or all of its partitions, which one consumer merges like several topics."""
        if self.partition_number is not None or not is_topic(topic) or not (found := declared(client, topic)):
            return [topic]
        return [partition_topic(topic, n) for n in range(found.count)]

    def _disconnect(self) -> None:
        """Close the connections that are not in use; the next command opens a new one."""
        for client in self._own_clients:
            client.connection_pool.disconnect(inuse_connections=False)

    def _begin(self) -> SourceRun:
        return self.open()
