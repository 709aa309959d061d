"""The streamz sink `to_redis`: results back into the reservoir, before what they were made of is acknowledged."""

import hashlib
from collections.abc import Mapping
from typing import Any

import redis
from streamz import Stream
from streamz.sinks import Sink

from tasks.connection import connect
from tasks.pipeline import Metadata, receipts, trust
from tasks.reservoir import Reservoir
from tasks.settings import check_topic, redis_url

__all__ = ["as_fields", "to_redis"]

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
    (for an hour; as long as the same entries make the same elements). Returns when Redis has it, so that the
    entries are acknowledged after that.

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
        self._reservoir = Reservoir(client or _client_of(upstream) or connect(url or redis_url()), compression=compression)
        super().__init__(upstream, **kwargs)

    def update(self, x: Any, who: Stream | None = None, metadata: Metadata = None) -> list[Any]:  # noqa: ARG002 - streamz' signature
        fields = as_fields(x, field=self._field)
        made_of = receipts(metadata)
        if not made_of:
            self._reservoir.push(self.topic, fields, keep=self._keep)
            return []
        inputs = " ".join(f"{receipt.topic}/{receipt.id}" for receipt in made_of)
        ordinal = made_of[0].outputs[self.topic, inputs]
        digest = hashlib.sha256(f"{made_of[0].group} {self.topic} {ordinal} {inputs}".encode()).hexdigest()
        self._reservoir.append(
            self.topic,
            self._reservoir.encode([fields]),
            record=f"sluice:output:{digest}",
            keep=self._keep,
            ttl_ms=_OUTPUT_TTL_MS,
        )
        made_of[0].outputs[self.topic, inputs] += 1
        return []


def _client_of(node: Stream) -> redis.Redis | None:
    """Return the client of the source upstream, if it reads Redis."""
    if isinstance(client := getattr(node, "client", None), redis.Redis):
        return client
    return next((client for up in node.upstreams if up is not None and (client := _client_of(up)) is not None), None)
