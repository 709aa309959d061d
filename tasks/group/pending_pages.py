"""A consumer's own pending entries, read page by page."""

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import redis

__all__ = ["Page", "PendingPages"]

_LOOKED_AT = 1_000  # pending entries per XPENDING


@dataclass(frozen=True, slots=True)
class Page:
    """Some pending entries of one topic, in id order.

    entries      the id, and name, data, name, data, ... of each
    deliveries   how often each was delivered, by topic and id
    trimmed      the ids of those that are no longer in the topic
    """

    entries: list[tuple[bytes, list[bytes]]]
    deliveries: dict[tuple[str, str], int]
    trimmed: list[str]


class PendingPages:
    """Reads the entries that are pending for one consumer. `topic in pages` while some of that topic are not read."""

    def __init__(self, client: redis.Redis, group: str, consumer: str) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._group = group
        self._consumer = consumer
        self._from: dict[str, str] = {}

    def __contains__(self, topic: str) -> bool:
        return topic in self._from

    def __bool__(self) -> bool:
        return bool(self._from)

    def restart(self, topics: Iterable[str]) -> None:
        """Read these topics from their first pending entry on."""
        self._from.update(dict.fromkeys(topics, "-"))

    def next(self, topic: str, *, end: str, held: Collection[str], most: int) -> Page:
        """Return the next pending entries of a topic, up to the id `end`. After its last page the topic is not in here any more.

        held    ids to skip, because the consumer has returned these entries
        most    the maximum number of entries to return
        """
        start = self._from[topic]
        pending = self._client.xpending_range(topic, self._group, start, end, _LOOKED_AT, consumername=self._consumer)
        deliveries = {p["message_id"].decode(): p["times_delivered"] for p in pending}
        missing = [id_ for id_ in deliveries if id_ not in held]
        chosen = missing[:most]
        found = self._entries(topic, chosen)
        # Only now: after an outage on the way, the same page is read again.
        if len(chosen) < len(missing):
            self._from[topic] = missing[len(chosen)]
        elif len(pending) == _LOOKED_AT:
            self._from[topic] = f"({pending[-1]['message_id'].decode()}"
        else:
            del self._from[topic]
        trimmed = [id_ for id_, entries in zip(chosen, found, strict=True) if not entries]
        entries = [(id_, list(itertools.chain(*fields.items()))) for [(id_, fields)] in filter(None, found)]
        ids = (id_.decode() for id_, _ in entries)
        return Page(entries, {(topic, id_): deliveries[id_] for id_ in ids}, trimmed)

    def _entries(self, topic: str, ids: list[str]) -> list[Any]:
        if not ids:
            return []
        with self._client.pipeline(transaction=False) as pipe:
            for id_ in ids:
                pipe.xrange(topic, id_, id_)
            return pipe.execute()
