"""Cursors in Redis: what an inlet remembers, moved by the script that pushes its entries.

A cursor is a hash: `value` and `digest`; `version`, which counts the moves; `moved`, the time of the last one in ms; and `topic`. A
move succeeds only from the version that the mover has read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis

from tasks.reservoir.keys import cursor_key, inlet_of_cursor, matching
from tasks.reservoir.lua import load
from tasks.reservoir.refusals import explained

__all__ = ["CursorMove", "CursorStore", "Memory", "Remembered", "cursors"]

_MOVE = load(__file__, "move_cursor")


@dataclass(frozen=True, slots=True)
class Memory:
    """The content of a cursor.

    value    the pump's value, encoded; b'' for none
    digest   of the last pushed entries; b'' for none
    """

    value: bytes = b""
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A cursor as it was read.

    version  the number of its moves; 0 if it does not exist
    moved_ms the time of the last move; 0 if it does not exist
    topic    the topic that the entries are pushed to; '' if it does not exist
    """

    memory: Memory = Memory()
    version: int = 0
    moved_ms: int = 0
    topic: str = ""


@dataclass(frozen=True, slots=True)
class CursorMove:
    """A move of a cursor from the version that was read to new content."""

    key: str
    version: int
    to: Memory


class CursorStore:
    """The cursor of one inlet.

    inlet   its name and a digest of its parameters
    """

    def __init__(self, client: redis.Redis, inlet: str) -> None:
        self.key = cursor_key(inlet)
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._move = _MOVE.on(client)

    def read(self) -> Remembered:
        """Return the cursor; raises redis.ResponseError, with the key, if Redis refuses it permanently."""
        try:
            answer = self._client.hmget(self.key, "version", "value", "digest", "moved", "topic")
        except redis.ResponseError as error:
            raise explained(error, self._client, {self.key: "hash"}, what="the cursor was not read") from error
        version, value, digest, moved, topic = answer
        return Remembered(
            Memory(value or b"", digest or b""), int(version or 0), int(moved or 0), (topic or b"").decode()
        )

    def move(self, move: CursorMove, topic: str, *, record: str, expected: str) -> bool:
        """Move the cursor without a push, once; return False if its version or the record is not as expected.

        topic              the topic that entries would be pushed to
        record, expected   move only if the record holds this value; '' for any
        """
        try:
            answer = self._move(
                cursor=self.key,
                record=record,
                expected=expected,
                topic=topic,
                version=move.version,
                value=move.to.value,
                digest=move.to.digest,
            )
        except redis.ResponseError as error:
            types = {self.key: "hash", record: "string"}
            raise explained(error, self._client, types, what="the cursor was not moved") from error
        return bool(answer)

    def set(self, value: bytes) -> None:
        """Set the value, and forget the digest; a push of a run that has read the cursor before is refused."""
        seconds, microseconds = self._client.time()
        with self._client.pipeline() as pipe:
            pipe.hset(
                self.key,
                mapping={"value": value, "digest": b"", "moved": seconds * 1000 + microseconds // 1000},
            )
            pipe.hincrby(self.key, "version", 1)
            pipe.execute()

    def delete(self) -> bool:
        """Delete the cursor, so that the pump begins anew; return whether it existed. A push from before is refused."""
        return bool(self._client.delete(self.key))


def cursors(client: redis.Redis, inlet: str = "") -> Iterator[str]:
    """Yield the inlets that have a cursor, each with a digest of its parameters; only those named `inlet`, if given."""
    pattern = cursor_key(f"{matching(inlet)}:*" if inlet else "*")
    found = client.scan_iter(match=pattern, count=1000, _type="HASH")
    yield from sorted(inlet_of_cursor(key.decode(errors="replace")) for key in found)
