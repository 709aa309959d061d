"""The streamz sink `to_redis`: results back into the reservoir, before what they were made of is acknowledged."""

import asyncio
import functools
import hashlib
import logging
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import redis
from streamz import Stream
from streamz.sinks import Sink

from tasks.connection import connect
from tasks.pipeline import Metadata, Receipt, receipts, trust
from tasks.reservoir import APPEND_TTL_MS, Reservoir
from tasks.settings import check_topic, redis_url

__all__ = ["as_fields", "to_redis"]

logger = logging.getLogger(__name__)

_OUTAGE = (redis.ConnectionError, redis.TimeoutError)
_MAX_PAUSE = 5.0
# A result made again from the same entries within this time is the same result.
_OUTPUT_TTL_MS = 3_600_000


def as_fields(value: Any, *, field: str = "value") -> Mapping[str, Any]:
    """Return a result as the fields of an entry: a mapping as it is, anything else as the one field `field`."""
    return value if isinstance(value, Mapping) else {field: value}


@trust
@Stream.register_api()
class to_redis(Sink):  # noqa: N801 - streamz names nodes like functions
    """Push every element to `topic`: a mapping as the entry's fields, anything else as one field.

    An element made of entries read by `from_redis` is pushed once, also when they are redelivered after a crash
    (for an hour; as long as the same entries make the same elements), and before those are acknowledged. While
    Redis does not answer, elements wait, in order.

    topic        where to push
    field        the field's name for what is not a mapping; by default the topic's
    keep         trim the topic to about this many entries
    compression  of frames: None, 'lz4' or 'zstd'
    url, client  the reservoir; by default the one that the graph's `from_redis` reads, else what the settings name
    """

    def __init__(
        self,
        upstream: Stream,
        topic: str,
        *,
        field: str | None = None,
        keep: int | None = 10_000,
        compression: str | None = None,
        url: str | None = None,
        client: redis.Redis | None = None,
        **kwargs: Any,
    ) -> None:
        self.topic = check_topic(topic)
        self._field = field or topic
        self._keep = keep
        if client is None and url is None:
            client = _client_of(upstream)
        self._reservoir = Reservoir(client or connect(url or redis_url()), compression=compression)
        self._waiting: deque[tuple[Callable[[], object], asyncio.Future[None]]] = deque()
        super().__init__(upstream, **kwargs)

    def update(self, x: Any, who: Stream | None = None, metadata: Metadata = None) -> list[Any]:  # noqa: ARG002 - streamz' signature
        """Push an element; while Redis does not answer, return what is done when it has been pushed after all."""
        append = self._append_of(x, receipts(metadata))
        if not self._waiting:
            try:
                append()
            except _OUTAGE as error:
                logger.warning(
                    "Redis does not answer (%s); results for topic %r wait", type(error).__name__, self.topic
                )
            else:
                return []
        # In the order they came; each is sent again until it is answered.
        self._waiting.append((append, done := asyncio.get_running_loop().create_future()))
        if len(self._waiting) == 1:
            self._sending = asyncio.ensure_future(self._send_waiting())
        return [done]

    async def _send_waiting(self) -> None:
        pause = 0.1
        while self._waiting:
            append, done = self._waiting[0]
            try:
                append()
            except _OUTAGE:
                await asyncio.sleep(pause)
                pause = min(_MAX_PAUSE, 2 * pause)
                continue
            except Exception as error:  # noqa: BLE001 - whoever waits for this element is told
                done.set_exception(error)
            else:
                done.set_result(None)
            self._waiting.popleft()
            pause = 0.1

    def _append_of(self, x: Any, made_of: list[Receipt]) -> Callable[[], object]:
        """Return the append of an element, which may be called again: it appends once."""
        encoded = self._reservoir.encode([as_fields(x, field=self._field)])
        if made_of:
            inputs = " ".join(f"{receipt.topic}/{receipt.id}" for receipt in made_of)
            node = self.meter.name  # the same in every run of the pipeline
            ordinal = made_of[0].outputs[node, inputs]
            made_of[0].outputs[node, inputs] += 1
            name = hashlib.sha256(f"{made_of[0].group} {self.topic} {node} {ordinal} {inputs}".encode()).hexdigest()
        else:
            name = uuid.uuid4().hex
        return functools.partial(
            self._reservoir.append,
            self.topic,
            encoded,
            record=f"sluice:output:{name}",
            keep=self._keep,
            ttl_ms=_OUTPUT_TTL_MS if made_of else APPEND_TTL_MS,
        )


def _client_of(node: Stream) -> redis.Redis | None:
    """Return the client of the source upstream, if it reads Redis."""
    if isinstance(client := getattr(node, "client", None), redis.Redis):
        return client
    return next((client for up in node.upstreams if up is not None and (client := _client_of(up)) is not None), None)
