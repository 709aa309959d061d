"""Reads of a group's topics that are sent before the last entries are processed, so that Redis works at the same time."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import redis

from tasks.group.membership import Membership
from tasks.reservoir.lua import load

__all__ = ["Read", "ReadAhead"]

# One word, so that redis-py returns the raw reply: it has no callback for this name, which would rebuild the whole reply.
_READ = "XREADGROUP GROUP"
_FENCED = load(__file__, "read_fenced")
_PAUSE = 0.02  # seconds
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

    is_fenced  whether each read checks the lease in the same step. Such a read is a script, which cannot block: a plain XREAD
               waits for it
    """

    def __init__(self, client: redis.Redis, membership: Membership, *, is_fenced: bool = False) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._membership = membership
        self._is_fenced = is_fenced
        self._last: dict[str, Any] = {}  # of fenced reads: the id of the last entry that was found
        self._connection: Any = None
        self._not_before = 0.0
        self._sent: tuple[Sequence[str], int, bool] | None = None
        self._fetched: Read | None = None

    def read(self, topics: Sequence[str], count: int, block_ms: int, *, timed: bool = False) -> Read:
        """Read, waiting up to `block_ms` for entries.

        timed    request the server's time first: entries that the read did not find come at that time or later
        raises    LeaseLostError: the read is fenced, and other consumers took this one for dead
        """
        if self._is_fenced:
            return self._read_fenced(topics, count, block_ms)
        waiting = ("BLOCK", block_ms) if block_ms else ()  # BLOCK 0 would wait for ever
        command = self._command(topics, count, *waiting)
        if not timed:
            return Read(topics, count, self._client.execute_command(*command) or [])
        with self._client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.execute_command(*command)
            now, reply = pipe.execute()
        return Read(topics, count, reply or [], _micros(now))

    def _read_fenced(self, topics: Sequence[str], count: int, block_ms: int) -> Read:
        read = self._fenced(topics, count, self._client.execute_command(*self._fenced_command(topics, count)))
        if read.entries or not block_ms:
            return read
        began = time.monotonic()
        after = [self._last.get(topic, "$") for topic in topics]
        self._client.execute_command("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", *topics, *after)
        read = self._fenced(topics, count, self._client.execute_command(*self._fenced_command(topics, count)))
        if not read.entries and time.monotonic() - began < _PAUSE:
            time.sleep(_PAUSE)  # an entry that another consumer has read woke it
        return read

    def _fenced(self, topics: Sequence[str], count: int, answer: Any) -> Read:
        micros, entries = self._membership.found(answer)
        for topic, found in entries:
            self._last[topic.decode()] = found[-1][0]
        return Read(topics, count, entries, int(micros))

    def _fenced_command(self, topics: Sequence[str], count: int) -> Sequence[Any]:
        fence = self._membership.fence
        keys, args = _FENCED.arguments(
            lease=fence.lease,
            topics=topics,
            token=fence.token,
            group=self._membership.group,
            consumer=self._membership.name,
            count=count,
        )
        # Not EVALSHA: a reply that the script is missing would come when the read has been sent ahead.
        return "EVAL", _FENCED.text, len(keys), *keys, *args

    def send(self, topics: Sequence[str], count: int, *, timed: bool = False) -> None:
        """Send a read ahead, to be fetched later. After a failure to connect or send, send none for some seconds."""
        if time.monotonic() < self._not_before:
            return
        if self._connection is None:
            pool = self._client.connection_pool
            self._connection = pool.connection_class(**pool.connection_kwargs)
        if self._is_fenced:
            timed, commands = False, [self._fenced_command(topics, count)]
        else:
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
            if self._is_fenced:
                return self._fenced(topics, count, self._client.parse_response(self._connection, "EVAL"))
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
            _READ, self._membership.group, self._membership.name, "COUNT", count, *options, "STREAMS", *topics, *[">"] * len(topics),
        )  # fmt: skip


def _micros(now: tuple[int, int]) -> int:
    seconds, micros = now
    return seconds * 1_000_000 + micros
