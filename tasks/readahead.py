"""Reading a group's topics: the next read is sent before the last is gone through, so that Redis works on it meanwhile."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import redis

__all__ = ["ReadAhead"]

# As one word, so that redis-py hands on the reply as it came: it would take it apart and put it together again.
_READ = "XREADGROUP GROUP"


class ReadAhead:
    """XREADGROUP of one consumer, of which one may be under way.

    What is sent ahead never waits for entries, and goes over a connection of its own, made when it is first needed. Redis
    counts its entries as delivered: who asks for what is pending takes the reply first, or finds them twice.
    """

    def __init__(self, client: redis.Redis, group: str, consumer: str) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._group = group
        self._consumer = consumer
        self._connection: Any = None
        self._asked = 0
        self.is_under_way = False
        """Whether a read was sent whose reply was not taken yet."""
        self.has_more = False
        """Whether the last reply had as many entries of a topic as it was asked for."""

    def read(self, topics: Sequence[str], count: int, block_ms: int) -> list[tuple[bytes, list[Any]]]:
        """Return what XREADGROUP does, as it comes: of the read under way, or of one that waits up to `block_ms`."""
        reply = self.take()
        if not reply:
            self._asked = count
            waiting = ("BLOCK", block_ms) if block_ms else ()  # 0 would be for ever
            reply = self._client.execute_command(*self._command(topics, count, *waiting)) or []
        self.has_more = any(len(entries) >= self._asked for _, entries in reply)
        return reply

    def send(self, topics: Sequence[str], count: int) -> None:
        """Send a read whose reply is taken later."""
        if self._connection is None:
            pool = self._client.connection_pool
            self._connection = pool.connection_class(**pool.connection_kwargs)
        with self._or_hang_up():
            self._connection.send_command(*self._command(topics, count))
        self.is_under_way, self._asked = True, count

    def take(self) -> list[tuple[bytes, list[Any]]]:
        """Return the reply of the read under way, if there is one."""
        if not self.is_under_way:
            return []
        self.is_under_way = False
        with self._or_hang_up():
            return self._client.parse_response(self._connection, _READ) or []

    def close(self) -> None:
        """Wait for what is under way, so that it is among what is pending, and hang up. Raises nothing."""
        with suppress(redis.RedisError):
            self.take()
        if self._connection is not None:
            self._connection.disconnect()

    @contextmanager
    def _or_hang_up(self) -> Iterator[None]:
        """Let no reply be taken for another's after one that did not come through."""
        try:
            yield
        except redis.ResponseError:
            raise
        except BaseException:
            self._connection.disconnect()
            raise

    def _command(self, topics: Sequence[str], count: int, *options: Any) -> Sequence[Any]:
        return (
            _READ, self._group, self._consumer, "COUNT", count, *options, "STREAMS", *topics, *[">"] * len(topics),
        )  # fmt: skip
