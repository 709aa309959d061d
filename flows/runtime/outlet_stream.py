"""The stream of an outlet's run: one pipeline, or one for each partition of the run's share."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from streamz import Stream
from tornado.ioloop import IOLoop

from flows.runtime.collector import freeze_loaded_objects
from flows.runtime.outlet_options import OutletOptions
from flows.runtime.outlet_watch import OutletWatch
from flows.runtime.partitioned import partitions_of
from flows.runtime.result_topic import ResultTopic
from tasks.errors import SettingsError
from tasks.nodes.from_redis import from_redis
from tasks.nodes.replica import Replica
from tasks.reservoir.connection import connect
from tasks.reservoir.partitions import partition_topic
from tasks.settings import redis_url

__all__ = ["OutletStream"]

_POLL = 0.2  # seconds between two checks for a signal
_MEET = 0.5  # seconds between two looks at the other runs of the group
_LOOK = 2.0  # seconds between two looks whether topics without entries have become partitioned


class OutletStream:
    """Streams entries until the run is to end; the loop of its thread runs the graphs.

    build    builds the pipeline on a source
    stop     set once the run is to end
    end      the time of `time.monotonic` at which it is to end
    """

    def __init__(
        self,
        build: Callable[[from_redis], Any],
        name: str,
        options: OutletOptions,
        *,
        results: ResultTopic,
        watch: OutletWatch,
        stop: threading.Event,
        end: float,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._build = build
        self._name = name
        self._options = options
        self._results = results
        self._watch = watch
        self._stop = stop
        self._end = end
        self._log = log

    async def run(self) -> None:
        """Stream until the end.

        raises    PipelineError, SettingsError, UnavailableError, LeaseLostError, StateConflictError
        """
        topics = self._options.topic_names
        partitions = partitions_of(topics)
        if partitions is None:
            source = self._source(topics)
            if await self._run_alone(source):
                return
            source.drop_group()  # of the topics without partitions, where no entry will come
            partitions = partitions_of(topics)
            assert partitions is not None  # it has just been seen, and never changes
        await self._run_share(partitions)

    async def _run_alone(self, source: from_redis) -> bool:
        """Stream from topics without partitions; return False if the first inlet has partitioned them since the start."""
        source.start()
        self._watch.follow({None: source})
        outcome = asyncio.wrap_future(source.outcome)
        next_look = time.monotonic() + _LOOK
        is_partitioned = False
        while not outcome.done():
            if time.monotonic() > next_look and not self._watch.has_read:
                is_partitioned = await asyncio.to_thread(self._is_partitioned)
                next_look = time.monotonic() + _LOOK
            if self._is_ending() or is_partitioned:
                source.stop()
            await asyncio.wait([outcome], timeout=_POLL)
        await outcome
        self._drop_group(source)
        return self._is_ending() or not is_partitioned

    def _is_partitioned(self) -> bool:
        try:
            return partitions_of(self._options.topic_names) is not None
        except redis.RedisError:  # the source reports an outage
            return False

    async def _run_share(self, partitions: int) -> None:
        """Stream from this run's share of the partitions."""
        topics, group = self._options.topic_names, self._options.group

        def build(n: int) -> from_redis:
            return self._source([partition_topic(topic, n) for topic in topics], partition=n)

        with connect(redis_url(), retries=1) as client:
            ttl = max(self._options.lease_seconds, 4 * _MEET)
            replica = Replica(client, group, partitions, build=build, ttl=ttl)
            next_step = 0.0
            try:
                while not self._is_ending() and not replica.is_through:
                    if time.monotonic() >= next_step:
                        next_step = time.monotonic() + _MEET
                        await self._step(replica, partitions)
                    await asyncio.sleep(_POLL)
            finally:
                await replica.stop()
            for source in replica.finished.values():
                self._drop_group(source)

    async def _step(self, replica: Replica, partitions: int) -> None:
        try:
            await replica.step()
        except redis.RedisError as error:  # the sources outlast an outage, and report it
            self._log.debug("%s: no look at the other runs (%s)", self._name, error)
        self._watch.follow({**replica.sources}, share=(replica.share.quota, partitions))

    def _source(self, topics: list[str], partition: int | None = None) -> from_redis:
        """Return a source with its pipeline."""
        options = self._options
        source = from_redis(
            topics,
            group=options.group,
            start_from=options.start_from,
            until=options.until,
            partition=partition,
            lease=options.lease_seconds,
            on_error=options.on_error,
            retry=options.retry,
            hold=options.hold,
            overtake=options.overtake,
            max_deliveries=options.max_deliveries,
            decode=options.decoding.decode,
            frames=options.decoding.frames,
            keep_state=options.keep_state,
            max_state=options.max_state,
            loop=IOLoop.current(),  # of this run's thread: no other run's pipeline can hold it up
            asynchronous=True,
        )
        result = self._build(source)
        if not isinstance(result, Stream | None):
            msg = (
                f"outlet {self._name!r}: expected the stream of its results or None, if branches end in sinks of their own, got a "
                f"{type(result).__name__}; return the stream before the sink"
            )
            raise SettingsError(msg)
        if result is not None:
            result.sink(self._watch.show, stream_name="shown in the report", retry=None)
            if options.into:
                self._results.declare()
                result.to_redis(
                    options.into,
                    field=options.into_field or None,
                    keep=options.into_kept,
                    partitions=options.into_partitions,
                    key=options.into_key or None,
                    compression=options.into_compression,
                )
        freeze_loaded_objects()
        return source

    def _is_ending(self) -> bool:
        return self._stop.is_set() or time.monotonic() > self._end

    def _drop_group(self, source: from_redis) -> None:
        if self._options.drop_group and source.is_through and not source.drop_group():
            self._log.warning("%s: group %r stays, because another consumer uses it", self._name, self._options.group)
