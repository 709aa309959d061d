"""Reads of a group's topics that are sent before the last entries are processed, so that Redis works at the same time."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import redis

__all__ = ["Read", "ReadAhead"]

# One word, so that redis-py returns the raw reply: it has no callback for this name, which would rebuild the whole reply.
_READ = "XREADGROUP GROUP"
_WITHOUT = 5.0  # seconds without reading ahead after a send failed


@dataclass(frozen=True, slots=True)
class Read:
    """The result of one XREADGROUP.

    topics    the topics that were read
    count     the COUNT of the command, which applies to each topic
    entries   the raw reply: topics, and their entries
    micros    the server's time before the read, in microseconds; 0 if it was not requested
    """

    topics: Sequence[str]
    count: int
    entries: list[tuple[bytes, list[Any]]]
    micros: int = 0


class ReadAhead:
    """Sends the XREADGROUP commands of one consumer; one of them may be sent ahead.

    A command that is sent ahead never blocks, and has a connection of its own, opened at the first use. Redis counts its entries
    as delivered, so take its reply before looking for pending entries, or they are found twice. Until the reply is fetched, it
    occupies Redis' memory.
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
        """Whether a read was sent ahead and its reply was not fetched."""
        return self._sent is not None

    def read(self, topics: Sequence[str], count: int, block_ms: int, *, timed: bool = False) -> Read:
        """Read, waiting up to `block_ms` for entries.

        timed    request the server's time first: entries that the read did not find come at that time or later
        """
        waiting = ("BLOCK", block_ms) if block_ms else ()  # BLOCK 0 would wait for ever
        command = self._command(topics, count, *waiting)
        if not timed:
            return Read(topics, count, self._client.execute_command(*command) or [])
        with self._client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.execute_command(*command)
            now, reply = pipe.execute()
        return Read(topics, count, reply or [], _micros(now))

    def send(self, topics: Sequence[str], count: int, *, timed: bool = False) -> None:
        """Send a read ahead, to be fetched later. After a failure to connect or send, send none for some seconds."""
        if time.monotonic() < self._not_before:
            return
        if self._connection is None:
            pool = self._client.connection_pool
            self._connection = pool.connection_class(**pool.connection_kwargs)
        commands = [("TIME",)] * timed + [self._command(topics, count)]
        for _ in range(2):  # the first attempt may find the connection cut
            # Redis does not execute a command that was sent in part.
            with suppress(redis.RedisError), self._or_disconnect():
                self._connection.send_packed_command(self._connection.pack_commands(commands))
                self._sent = topics, count, timed
                return
        self._not_before = time.monotonic() + _WITHOUT

    def fetch(self) -> None:
        """Receive the reply to the read that was sent ahead, if there is one; raise the error if the reply is lost."""
        if self._sent:
            self._fetched = self._received(*self._sent)

    def take(self) -> Read | None:
        """Remove the read that was fetched and return it, or None."""
        read, self._fetched = self._fetched, None
        return read

    def close(self) -> None:
        """Wait for the read that was sent ahead, so that its entries are pending, and disconnect. Raises nothing."""
        with suppress(redis.RedisError):
            self.fetch()
        self.disconnect()

    def disconnect(self) -> None:
        """Forget the read that was sent ahead: its entries are pending, or will be at any time from now."""
        self._sent = self._fetched = None
        if self._connection is not None:
            self._connection.disconnect()

    def _received(self, topics: Sequence[str], count: int, timed: bool) -> Read:  # noqa: FBT001 - the arguments it was sent with
        self._sent = None
        with self._or_disconnect():
            try:
                now = self._client.parse_response(self._connection, "TIME") if timed else (0, 0)
            except redis.ResponseError:
                self.disconnect()  # the next reply belongs to the other command
                raise
            return Read(topics, count, self._client.parse_response(self._connection, _READ) or [], _micros(now))

    @contextmanager
    def _or_disconnect(self) -> Iterator[None]:
        """Disconnect if a reply was not received, so that it cannot be mistaken for the reply to a later command."""
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
