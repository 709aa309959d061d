"""The streamz sink `to_redis`: appends results to a topic before the entries they were made of are acknowledged."""

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import redis
from streamz import Stream
from streamz.sinks import Sink

from tasks.base.backoff import Backoff
from tasks.base.logs import get_logger
from tasks.base.repeated_warnings import Repeated
from tasks.checks import check_field
from tasks.codec.records import as_dict, is_record
from tasks.errors import TopicFullError
from tasks.pipeline import trust
from tasks.pipeline.fusible import ends_runs
from tasks.pipeline.receipts import Metadata, Receipt, event_time, receipts
from tasks.reservoir import Reservoir
from tasks.reservoir.connection import connect, is_outage
from tasks.reservoir.entry import Part, with_time
from tasks.reservoir.keep import DEFAULT_KEEP, Keep, WhenFull
from tasks.reservoir.keys import push_record, result_record
from tasks.reservoir.partitions import Partitioning, declare, partition_topic
from tasks.reservoir.results import RESULT_TTL_MS, newest, result_name
from tasks.reservoir.topic_names import check_topic
from tasks.settings import redis_url

__all__ = ["as_fields", "to_redis"]

logger = get_logger(__name__)

_MAX_PAUSE = 5.0
# TTL of records in another reservoir than the source's, where no acknowledgement shortens it.
_ELSEWHERE_TTL_MS = 86_400_000


def as_fields(value: Any, *, field: str = "value") -> Mapping[str, Any]:
    """Return a result as the fields of an entry: a mapping or record as its fields, any other value as `field`."""
    if isinstance(value, Mapping):
        return value
    return as_dict(value) if is_record(value) else {field: value}


@trust
@ends_runs
@Stream.register_api()
class to_redis(Sink):  # noqa: N801 - streamz names nodes like functions
    """Push every element to `topic`: a mapping or a record (dataclass, named tuple...) as fields, any other value as one field.

    An element made of entries from `from_redis` is pushed before these are acknowledged, and once, even if a crash, a retry or
    a claim redelivers the entries and the element is made again (in another reservoir than the source's: within a day).
    While Redis does not answer, or the topic is full, elements wait, in order.

    topic        where to push
    field        the name of the field for a value without fields; by default the topic's name
    keep         limits on the topic's entries, age and size, such as '4000, 1h, 500MB'; None for no limits
    when_full    if a living group has not read entries beyond these limits: 'spill' drops and counts them, 'wait' keeps
                 elements here until it has read them
    partitions   number of the topic's partitions, over which elements are distributed
    key          their field, or the column of frames, by which they are; see `Reservoir.push`
    compression  of frames: None, 'lz4' or 'zstd'
    url, client  the reservoir; by default the one that the graph's `from_redis` reads, or the one from the settings
    """

    def __init__(
        self,
        upstream: Stream,
        topic: str,
        *,
        field: str | None = None,
        keep: int | str | Keep | None = DEFAULT_KEEP,
        when_full: WhenFull = "spill",
        partitions: int | None = None,
        key: str | None = None,
        compression: str | None = None,
        url: str | None = None,
        client: redis.Redis | None = None,
        **kwargs: Any,
    ) -> None:
        self.topic = check_topic(topic)
        self._field = topic if field is None else check_field(field, name="field")
        self._keep = None if keep is None else Keep.of(keep, when_full)
        self._by = Partitioning.of(partitions, key)
        self._beside_source = False
        if client is None and url is None:
            client = _client_of(upstream)
            self._beside_source = client is not None
        self._reservoir = Reservoir(client or connect(url or redis_url()), compression=compression)
        if self._by is not None:
            declare(self._reservoir.client, topic, self._by)
        self._warn = Repeated(logger)
        self._waiting: deque[tuple[Callable[[], list[str] | None], asyncio.Future[None]]] = deque()
        super().__init__(upstream, **kwargs)

    def update(self, x: Any, who: Stream | None = None, metadata: Metadata = None) -> list[Any]:  # noqa: ARG002 - streamz' signature
        """Push an element. While Redis does not answer, return a future that is done when the element has been pushed."""
        if self._beside_source and (outbox := self.secured.outbox) is not None:
            # It is appended with the state that it was made with, in one transaction.
            for encoded in self._encoded(x, metadata):
                self._put(outbox, encoded)
            return []
        append = self._append_of(self._encoded(x, metadata), receipts(metadata))
        if not self._waiting:
            try:
                return self._appended(append())
            except (redis.RedisError, TopicFullError) as error:
                if not _may_pass(error):
                    raise
                self._warn(f"Redis takes no results for topic {self.topic!r}; they wait", detail=type(error).__name__)
        # In order of arrival; each is sent again until Redis answers.
        self._waiting.append((append, done := asyncio.get_running_loop().create_future()))
        if len(self._waiting) == 1:
            self._sending = asyncio.ensure_future(self._send_waiting())
        return [done]

    async def _send_waiting(self) -> None:
        backoff = Backoff(first=0.1, longest=_MAX_PAUSE)
        while self._waiting:
            append, done = self._waiting[0]
            try:
                for never in self._appended(append()):
                    await never
            except Exception as error:  # noqa: BLE001 - raised where the element is awaited
                if _may_pass(error):
                    await asyncio.sleep(backoff.next())
                    continue
                done.set_exception(error)
            else:
                done.set_result(None)
            self._waiting.popleft()
            backoff.reset()

    def _appended(self, ids: list[str] | None) -> list[Any]:
        """Return nothing to await, or a future that is never done if the consumer was taken for dead.

        Its entries belong to its successor, which appends their results: here they have neither finished nor failed. The
        source notices the lost lease by itself.
        """
        return [] if ids is not None else [asyncio.get_running_loop().create_future()]

    def _put(self, outbox: Any, encoded: dict[bytes, bytes]) -> None:
        """Add an encoded entry to the results of the next cut; its transaction appends to a partition as to a topic."""
        if self._by is None:
            outbox.add(self.topic, encoded, self._keep)
            return
        assert isinstance(encoded, Part)
        keep = self._keep.shared(self._by.count) if self._keep else None
        outbox.add(partition_topic(self.topic, encoded.partition), encoded, keep)

    def _encoded(self, x: Any, metadata: Metadata) -> list[dict[bytes, bytes]]:
        """Return an element as an encoded entry, or as its parts for several partitions; they inherit the event time."""
        encoded = self._reservoir.encode([as_fields(x, field=self._field)], topic=self.topic, by=self._by)
        return [with_time(each, event_time(metadata)) for each in encoded]

    def _append_of(self, encoded: list[dict[bytes, bytes]], made_of: list[Receipt]) -> Callable[[], list[str] | None]:
        """Return a function that appends an element, once even if it is called again."""
        append = functools.partial(self._reservoir.append, self.topic, encoded, keep=self._keep, by=self._by)
        if not made_of:
            return functools.partial(append, record=push_record())
        keeper, node = newest(made_of), self.meter.name  # the node has the same name in every run
        ordinal = keeper.count_result(node, *((one.topic, one.id) for one in made_of))
        return functools.partial(
            append,
            record=result_record(keeper.fence.group, keeper.topic, keeper.id),
            field=result_name(made_of, into=self.topic, node=node, ordinal=ordinal),
            fence=keeper.fence if self._beside_source else None,
            ttl_ms=RESULT_TTL_MS if self._beside_source else _ELSEWHERE_TTL_MS,
        )


def _may_pass(error: Exception) -> bool:
    return isinstance(error, TopicFullError) or is_outage(error)


def _client_of(node: Stream) -> redis.Redis | None:
    """Return the client of the source upstream if it reads Redis."""
    if isinstance(client := getattr(node, "client", None), redis.Redis):
        return client
    return next((client for up in node.upstreams if up is not None and (client := _client_of(up)) is not None), None)
