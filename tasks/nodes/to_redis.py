"""The streamz sink `to_redis`: results back into the reservoir, before what they were made of is acknowledged."""

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
from tasks.checks import check_topic
from tasks.codec.records import as_dict, is_record
from tasks.errors import TopicFullError
from tasks.pipeline import trust
from tasks.pipeline.receipts import Metadata, Receipt, receipts
from tasks.reservoir import Reservoir
from tasks.reservoir.connection import connect, is_outage
from tasks.reservoir.keep import DEFAULT_KEEP, Keep, WhenFull
from tasks.reservoir.keys import push_record, result_record
from tasks.reservoir.results import RESULT_TTL_MS, newest, result_name
from tasks.settings import redis_url

__all__ = ["as_fields", "to_redis"]

logger = get_logger(__name__)

_MAX_PAUSE = 5.0
# In a reservoir that is not the source's, where no acknowledgement clears the records away.
_ELSEWHERE_TTL_MS = 86_400_000


def as_fields(value: Any, *, field: str = "value") -> Mapping[str, Any]:
    """Return a result as the fields of an entry: a mapping or a record as its fields, anything else as the field `field`."""
    if isinstance(value, Mapping):
        return value
    return as_dict(value) if is_record(value) else {field: value}


@trust
@Stream.register_api()
class to_redis(Sink):  # noqa: N801 - streamz names nodes like functions
    """Push every element to `topic`: a mapping or a record (dataclass, named tuple...) as fields, anything else as one field.

    An element made of entries read by `from_redis` is pushed before those are acknowledged, and once: also when
    they are redelivered and make it again after a crash, a retry or a claim (in a reservoir other than the source's,
    for a day). While Redis does not answer, or the topic is full, elements wait, in order.

    topic        where to push
    field        the field's name for what is not a mapping; by default the topic's
    keep         what of the topic is kept: entries, age and size, such as '4000, 1h, 500MB'; None for everything
    when_full    what happens when a live group has not read what is beyond that: 'spill', it is dropped and counted, or
                 'wait', elements wait here until it has
    compression  of frames: None, 'lz4' or 'zstd'
    url, client  the reservoir; by default the one that the graph's `from_redis` reads, else what the settings name
    """

    def __init__(
        self,
        upstream: Stream,
        topic: str,
        *,
        field: str | None = None,
        keep: int | str | None = DEFAULT_KEEP,
        when_full: WhenFull = "spill",
        compression: str | None = None,
        url: str | None = None,
        client: redis.Redis | None = None,
        **kwargs: Any,
    ) -> None:
        self.topic = check_topic(topic)
        self._field = field or topic
        self._keep = None if keep is None else Keep.of(keep, when_full)
        self._beside_source = False
        if client is None and url is None:
            client = _client_of(upstream)
            self._beside_source = client is not None
        self._reservoir = Reservoir(client or connect(url or redis_url()), compression=compression)
        self._warn = Repeated(logger)
        self._waiting: deque[tuple[Callable[[], list[str] | None], asyncio.Future[None]]] = deque()
        super().__init__(upstream, **kwargs)

    def update(self, x: Any, who: Stream | None = None, metadata: Metadata = None) -> list[Any]:  # noqa: ARG002 - streamz' signature
        """Push an element; while Redis does not answer, return what is done when it has been pushed after all."""
        append = self._append_of(x, receipts(metadata))
        if not self._waiting:
            try:
                return self._appended(append())
            except (redis.RedisError, TopicFullError) as error:
                if not _may_pass(error):
                    raise
                self._warn(f"Redis takes no results for topic {self.topic!r}; they wait", detail=type(error).__name__)
        # In the order they came; each is sent again until it is answered.
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
            except Exception as error:  # noqa: BLE001 - whoever waits for this element is told
                if _may_pass(error):
                    await asyncio.sleep(backoff.next())
                    continue
                done.set_exception(error)
            else:
                done.set_result(None)
            self._waiting.popleft()
            backoff.reset()

    def _appended(self, ids: list[str] | None) -> list[Any]:
        """Return nothing to wait for; if the consumer was taken for dead, what is never done.

        Its entries are its successor's now, and so are their results: they are neither done here nor failed. The
        source finds that out by itself, and begins again.
        """
        return [] if ids is not None else [asyncio.get_running_loop().create_future()]

    def _append_of(self, x: Any, made_of: list[Receipt]) -> Callable[[], list[str] | None]:
        """Return the append of an element, which may be called again: it appends once."""
        encoded = self._reservoir.encode([as_fields(x, field=self._field)], topic=self.topic)
        append = functools.partial(self._reservoir.append, self.topic, encoded, keep=self._keep)
        if not made_of:
            return functools.partial(append, record=push_record())
        keeper, node = newest(made_of), self.meter.name  # the node's name is the same in every life of the pipeline
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
    """Return the client of the source upstream, if it reads Redis."""
    if isinstance(client := getattr(node, "client", None), redis.Redis):
        return client
    return next((client for up in node.upstreams if up is not None and (client := _client_of(up)) is not None), None)
