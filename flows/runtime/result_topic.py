"""Declares in Redis what the topic of an outlet's results keeps, for as long as the outlet runs."""

import time
from contextlib import suppress

import redis

from tasks.errors import SettingsError
from tasks.reservoir.connection import connect
from tasks.reservoir.keep import Keep
from tasks.reservoir.partitions import Partitioning
from tasks.reservoir.retention import Retention
from tasks.settings import redis_url

__all__ = ["ResultTopic"]

_EVERY = 60.0  # seconds between two declarations; one counts for three minutes


class ResultTopic:
    """The topic that the results of a group go into; one thread uses it at a time."""

    def __init__(self, topic: str, keep: Keep, *, group: str, by: Partitioning | None = None) -> None:
        self._topic = topic
        self._by = by
        self._keep = keep
        self._group = group
        self._client: redis.Redis | None = None
        self._next = 0.0

    def declare(self) -> None:
        """Declare the limits, and the partitions if there are any.

        raises    SettingsError: an inlet or another outlet has declared others; UnavailableError; redis.RedisError
        """
        if self._client is None:
            self._client = connect(redis_url())
        Retention(self._client).declare(self._topic, self._keep, group=self._group, by=self._by)
        self._next = time.monotonic() + _EVERY

    def renew(self) -> None:
        """Declare the limits again once a minute, if they were declared.

        A contradiction is left to the other writer, which began later.
        """
        if self._client and time.monotonic() >= self._next:
            with suppress(SettingsError):
                self.declare()

    def close(self) -> None:
        """Close the connection."""
        if self._client:
            self._client.close()
