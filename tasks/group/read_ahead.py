"""Reading a group's topics: the next read is sent before the last is gone through, so that Redis works on it meanwhile."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import redis

__all__ = ["Read", "ReadAhead"]

# As one word, so that redis-py hands on the reply as it came: it would take it apart and put it together again.
_READ = "XREADGROUP GROUP"
_WITHOUT = 5.0  # seconds without reading ahead after it could not be sent


@dataclass(frozen=True, slots=True)
class Read:
    """One XREADGROUP.

    topics    the topics that were read
    count     how many entries of each it asked for
    entries   the reply as it came: a topic, and its entries
    micros    what the server's clock said before, in microseconds; 0 if it was not asked
    """

    topics: Sequence[str]
    count: int
    entries: list[tuple[bytes, list[Any]]]
    micros: int = 0


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
        self._not_before = 0.0
        self._sent: tuple[Sequence[str], int, bool] | None = None
        self._fetched: Read | None = None

    @property
    def is_sent(self) -> bool:
        """Whether a read is under way whose reply was not fetched."""
        return self._sent is not None

    def read(self, topics: Sequence[str], count: int, block_ms: int, *, timed: bool = False) -> Read:
        """Read, waiting up to `block_ms` for entries.

        timed    ask for the server's time before: what the read did not find comes at that time or later
        """
        waiting = ("BLOCK", block_ms) if block_ms else ()  # 0 would be for ever
        command = self._command(topics, count, *waiting)
        if not timed:
            return Read(topics, count, self._client.execute_command(*command) or [])
        with self._client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.execute_command(*command)
            now, reply = pipe.execute()
        return Read(topics, count, reply or [], _micros(now))

    def send(self, topics: Sequence[str], count: int, *, timed: bool = False) -> None:
        """Send a read whose reply is taken later. Where there is no connection for it, nothing is sent for some seconds."""
        if time.monotonic() < self._not_before:
            return
        if self._connection is None:
            pool = self._client.connection_pool
            self._connection = pool.connection_class(**pool.connection_kwargs)
        commands = [("TIME",)] * timed + [self._command(topics, count)]
        for _ in range(2):  # the first time it may be found to have been cut
            # What is not sent to its end is not done.
            with suppress(redis.RedisError), self._or_disconnect():
                self._connection.send_packed_command(self._connection.pack_commands(commands))
                self._sent = topics, count, timed
                return
        self._not_before = time.monotonic() + _WITHOUT

    def fetch(self) -> None:
        """Have the reply of the read under way here, if there is one, to be taken; if it is lost, raise what lost it."""
        if self._sent:
            self._fetched = self._received(*self._sent)

    def take(self) -> Read | None:
        """Return the read that was fetched, if there is one."""
        read, self._fetched = self._fetched, None
        return read

    def close(self) -> None:
        """Wait for what is under way, so that it is among what is pending, and hang up. Raises nothing."""
        with suppress(redis.RedisError):
            self.fetch()
        self.disconnect()

    def disconnect(self) -> None:
        """Forget what is under way: it is among what is pending, or will be at any time from now."""
        self._sent = self._fetched = None
        if self._connection is not None:
            self._connection.disconnect()

    def _received(self, topics: Sequence[str], count: int, timed: bool) -> Read:  # noqa: FBT001 - as it was sent
        self._sent = None
        with self._or_disconnect():
            try:
                now = self._client.parse_response(self._connection, "TIME") if timed else (0, 0)
            except redis.ResponseError:
                self.disconnect()  # the next reply would be taken for another's
                raise
            return Read(topics, count, self._client.parse_response(self._connection, _READ) or [], _micros(now))

    @contextmanager
    def _or_disconnect(self) -> Iterator[None]:
        """Let no reply be taken for another's after one that did not come through."""
        try:
            yield
        except redis.ResponseError:
            raise
        except BaseException:
            self.disconnect()
            raise

    def _command(self, topics: Sequence[str], count: int, *options: Any) -> Sequence[Any]:
        return (
            _READ, self._group, self._consumer, "COUNT", count, *options, "STREAMS", *topics, *[">"] * len(topics),
        )  # fmt: skip


def _micros(now: tuple[int, int]) -> int:
    seconds, micros = now
    return seconds * 1_000_000 + micros
