"""Reading a group's topics: the next read is sent before the last is gone through, so that Redis works on it meanwhile."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import redis

__all__ = ["ReadAhead"]

# As one word, so that redis-py hands on the reply as it came: it would take it apart and put it together again.
_READ = "XREADGROUP GROUP"
_WITHOUT = 5.0  # seconds without reading ahead after it could not be sent


class ReadAhead:
    """XREADGROUP of one consumer, of which one may be under way.

    What is sent ahead never waits for entries, and goes over a connection of its own, made when it is first needed. Redis
    counts its entries as delivered: who asks for what is pending takes the reply first, or finds them twice. Until it is
    fetched, a reply is in Redis' memory.
    """

    def __init__(self, client: redis.Redis, group: str, consumer: str) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._group = group
        self._consumer = consumer
        self._connection: Any = None
        self._asked = 0
        self._not_before = 0.0
        self._is_sent = False
        self._fetched: list[tuple[bytes, list[Any]]] = []

    def read(self, topics: Sequence[str], count: int, block_ms: int) -> list[tuple[bytes, list[Any]]]:
        """Return what XREADGROUP does, as it comes, waiting up to `block_ms` for entries."""
        self._asked = count
        waiting = ("BLOCK", block_ms) if block_ms else ()  # 0 would be for ever
        return self._client.execute_command(*self._command(topics, count, *waiting)) or []

    def send(self, topics: Sequence[str], count: int) -> None:
        """Send a read whose reply is taken later. Where there is no connection for it, nothing is sent for some seconds."""
        if time.monotonic() < self._not_before:
            return
        if self._connection is None:
            pool = self._client.connection_pool
            self._connection = pool.connection_class(**pool.connection_kwargs)
        for _ in range(2):  # the first time it may be found to have been cut
            # What is not sent to its end is not done.
            with suppress(redis.RedisError), self._or_hang_up():
                self._connection.send_command(*self._command(topics, count))
                self._is_sent, self._asked = True, count
                return
        self._not_before = time.monotonic() + _WITHOUT

    def fetch(self) -> None:
        """Have the reply of the read under way here, if there is one, to be taken; if it is lost, raise what lost it."""
        if self._is_sent:
            self._fetched = self._received()

    def take(self) -> list[tuple[bytes, list[Any]]]:
        """Return the reply that was fetched, if there is one."""
        reply, self._fetched = self._fetched, []
        return reply

    def is_full(self, reply: list[tuple[bytes, list[Any]]]) -> bool:
        """Return whether the last reply has as many entries of a topic as it was asked for: then there is more."""
        return any(len(entries) >= self._asked for _, entries in reply)

    def close(self) -> None:
        """Wait for what is under way, so that it is among what is pending, and hang up. Raises nothing."""
        with suppress(redis.RedisError):
            self.fetch()
        self.hang_up()

    def hang_up(self) -> None:
        """Forget what is under way: it is among what is pending, or will be at any time from now."""
        self._is_sent, self._fetched = False, []
        if self._connection is not None:
            self._connection.disconnect()

    def _received(self) -> list[tuple[bytes, list[Any]]]:
        self._is_sent = False
        with self._or_hang_up():
            return self._client.parse_response(self._connection, _READ) or []

    @contextmanager
    def _or_hang_up(self) -> Iterator[None]:
        """Let no reply be taken for another's after one that did not come through."""
        try:
            yield
        except redis.ResponseError:
            raise
        except BaseException:
            self.hang_up()
            raise

    def _command(self, topics: Sequence[str], count: int, *options: Any) -> Sequence[Any]:
        return (
            _READ, self._group, self._consumer, "COUNT", count, *options, "STREAMS", *topics, *[">"] * len(topics),
        )  # fmt: skip
