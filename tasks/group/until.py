"""The end of a bounded replay: reads that stop there, and how far the replay has come."""

from collections.abc import Mapping
from typing import Any

import redis

from tasks.base.ids import id_numbers
from tasks.checks import group_end
from tasks.group.membership import Membership
from tasks.group.read_ahead import Read
from tasks.reservoir.groups import groups_of
from tasks.reservoir.lua import load

__all__ = ["ReplayProgress", "Until"]

_READ = load(__file__, "read_until")


class Until:
    """The last entry that a bounded replay reads, of each topic.

    until    'now', an ISO time or an entry id; see `group_end`
    """

    def __init__(self, client: redis.Redis, membership: Membership, until: str) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._membership = membership
        self._group = membership.group
        self._until = group_end(until)
        self.ends: dict[str, str] = {}
        """The id of the last entry, of each topic where it is known by now."""
        self._read = _READ.on(client)

    def end(self, topic: str) -> str:
        """Return the id of the last entry to read of `topic`. The first call fixes the meaning of 'now'."""
        if topic not in self.ends:
            now = self._until == "$"
            self.ends[topic] = self._client.xinfo_stream(topic)["last-generated-id"].decode() if now else self._until
        return self.ends[topic]

    def read(self, topic: str, count: int) -> Read:
        """Read a topic up to its end, without blocking.

        raises    LeaseLostError: other consumers took this one for dead
        """
        fence = self._membership.fence
        answer = self._read(
            lease=fence.lease,
            topic=topic,
            token=fence.token,
            group=self._group,
            consumer=self._membership.name,
            count=count,
            until_id=self.end(topic),
        )
        micros, entries = self._membership.found(answer)
        return Read([topic], count, [(topic.encode(), entries)] if entries else [], int(micros))

    def is_reached(self, topic: str) -> bool:
        """Return whether all entries up to the end were delivered and no more can come. Call it after an empty read."""
        end = self.end(topic)
        position = _position(self._client, topic, self._group)
        if id_numbers(position) >= id_numbers(end):
            return True
        if self._client.xrange(topic, f"({position}", end, count=1):
            return False
        newest = self._client.xinfo_stream(topic)["last-generated-id"].decode()
        seconds, micros = self._client.time()
        return id_numbers(newest) >= id_numbers(end) or seconds * 1000 + micros // 1000 > id_numbers(end)[0]


class ReplayProgress:
    """The progress of a bounded replay, measured by the times in the entries' ids."""

    def __init__(self, client: redis.Redis, group: str) -> None:
        self._client: Any = client
        self._group = group
        self._starts: dict[str, int] = {}

    def share(self, ends: Mapping[str, str]) -> float:
        """Return the share of the replay that was delivered, from 0 to 1: from the group's start to the ends of its topics."""
        shares = [self._share(topic, id_numbers(end)[0]) for topic, end in ends.items()]
        return sum(shares) / len(shares) if shares else 0.0

    def _share(self, topic: str, end: int) -> float:
        position = _position(self._client, topic, self._group)
        if topic not in self._starts:
            following = self._client.xrange(topic, f"({position}", count=1)
            self._starts[topic] = id_numbers(following[0][0].decode())[0] if following else end
        start = self._starts[topic]
        if end <= start:
            return 1.0
        return min(1.0, max(0.0, (id_numbers(position)[0] - start) / (end - start)))


def _position(client: redis.Redis, topic: str, group: str) -> str:
    """Return the id of the last entry that was delivered to a group."""
    found = groups_of(client, topic).get(group)
    return found["last-delivered-id"].decode() if found else "0-0"
