"""Measures how far an outlet's group is behind: the lag on its topics, and the progress of a replay."""

from collections.abc import Mapping

import redis

from tasks.group.until import ReplayProgress
from tasks.reservoir.connection import connect
from tasks.reservoir.folding import level_of
from tasks.reservoir.levels import TopicLevel
from tasks.settings import redis_url

__all__ = ["GroupLag"]


class GroupLag:
    """The lag of one group, over a connection of its own. The watch's thread uses it."""

    def __init__(self, topics: list[str], group: str) -> None:
        self._topics = topics
        self._group = group
        self._client: redis.Redis | None = None
        self._replay: ReplayProgress | None = None

    def levels(self) -> list[TopicLevel]:
        """Return the levels of the topics that exist."""
        return [level for topic in self._topics if (level := level_of(self._connected(), topic))]

    def percent(self, ends: Mapping[str, str], *, is_through: bool) -> float | None:
        """Return how much of a replay up to `ends` is behind it; None for a run without an end."""
        if not ends:
            return None
        if is_through:
            return 100.0
        if self._replay is None:
            self._replay = ReplayProgress(self._connected(), self._group)
        return round(100 * self._replay.share(ends), 1)

    def close(self) -> None:
        """Close the connection."""
        if self._client:
            self._client.close()

    def _connected(self) -> redis.Redis:
        if self._client is None:
            self._client = connect(redis_url())
        return self._client
