"""Retention: limits of topics, declared by inlets and applied by each append, and by `trim` to topics without appends.

Besides its stream, a topic has these keys, all with a TTL (`topic_keys`):

tally    counts of appends: seven numbers, explained in scripts/append.lua
state    a hash: the declared limits, the cursor of retention, the number of removed entries
index    a sorted set of samples: '<entry id> <bytes appended up to it>' by the number of entries up to it
groups   a hash: the time when each group was last seen, in ms; negative once it is forgotten
spilled  a hash of counts: entries dropped before a group had read them, by group; dropped dead letters ('dead:<group>'),
         acknowledged entries ('done:<group>') and dead-lettered ones ('failed:<group>')
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import OutOfMemoryError

from tasks.errors import SettingsError
from tasks.reservoir.groups import group_name, groups_of
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import topic_keys
from tasks.reservoir.lua import load
from tasks.reservoir.partitions import Partitioning, declare, partition_topic
from tasks.reservoir.refusals import explained
from tasks.reservoir.topic_names import check_topic

__all__ = ["TTL_MS", "Retention", "Trimmed", "mark_seen"]

# Longer than any pause of a schedule; renewed by each append and by the flow `trim`.
TTL_MS = 30 * 86_400_000
# A declaration counts for this long; an inlet's run declares at its start, and the next run follows within a minute.
LATELY_MS = 180_000

_TRIM = load(__file__, "trim")
_DECLARE = load(__file__, "declare")


def mark_seen(client: Any, topic: str, group: str) -> None:
    """Mark `group` as alive, so that no entry of `topic` that it has not finished is removed."""
    key = topic_keys(topic).groups
    # A full server refuses this; the last mark holds for days, and reading on makes room.
    with suppress(OutOfMemoryError), client.pipeline(transaction=False) as pipe:
        pipe.hset(key, group, int(time.time() * 1000))
        pipe.pexpire(key, TTL_MS)
        pipe.execute()


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The result of one trim: the number of `removed` entries; a live group had not read `spilled` of these."""

    topic: str
    removed: int
    spilled: int


class Retention:
    """Retention apart from appends: declares limits, forgets groups, and trims topics without appends."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._trim = _TRIM.on(client)
        self._declare = _DECLARE.on(client)

    def declare(
        self, topic: str, keep: Keep, *, inlet: str = "", group: str = "", by: Partitioning | None = None
    ) -> None:
        """Store the limits of `topic`, and how it is partitioned, on behalf of an inlet, or of an outlet with results there.

        inlet     a name that is unique for an inlet with its parameters
        group     the outlet's consumer group, if an outlet declares
        raises    SettingsError: another inlet or outlet has declared other limits in the last minutes; or the topic is partitioned
                  in another way
        """
        if by is not None:
            declare(self._client, topic, by)
        writer = f"inlet:{inlet}" if inlet else f"outlet:{group}"
        state = topic_keys(check_topic(topic)).state
        try:
            other = self._declare(
                state=state,
                writer=writer,
                keep=keep.packed(),
                now_ms=int(time.time() * 1000),
                counts_for_ms=LATELY_MS,
                ttl_ms=TTL_MS,
            )
        except redis.ResponseError as error:
            what = f"topic {topic!r}: its limits were not declared, nothing was pushed"
            raise explained(error, self._client, {state: "hash"}, what=what) from error
        if other:
            name, packed = (text.decode() for text in other)
            msg = (
                f"topic {topic!r}: expected keep and when_full to be the same in all its inlets, and in the outlets whose results go "
                f"there (into_keep, into_when_full), got {str(keep)!r} from {_named(writer)} and {str(Keep.unpacked(packed))!r} from "
                f"{_named(name)}; make them agree"
            )
            raise SettingsError(msg)
        if by is not None:
            with self._client.pipeline(transaction=False) as pipe:
                for n in range(by.count):
                    state = topic_keys(partition_topic(topic, n)).state
                    pipe.hset(state, "keep", keep.shared(by.count).packed())
                    pipe.pexpire(state, TTL_MS)
                pipe.execute()

    def trim(self, topic: str) -> Trimmed | None:
        """Remove entries beyond a topic's limits, like its appends; None if no inlet has declared limits."""
        removed = spilled = 0
        first, more = True, True
        while more:
            answer = self._trim(
                **topic_keys(topic)._asdict(),
                ttl_ms=TTL_MS,
                from_first=int(first),
                declared_before_ms=int(time.time() * 1000) - LATELY_MS,
            )
            if answer is None:
                return None
            removed, spilled, more = removed + answer[0], spilled + answer[1], answer[2]
            first = False
        return Trimmed(topic, removed, spilled)

    def forget(self, topic: str, *, after_ms: int, now_ms: int | None = None) -> list[str]:
        """Forget groups that have not read for `after_ms`, so that they retain no entries; return their names.

        A group that reads again, with any client, retains entries again.
        """
        now = int(time.time() * 1000) if now_ms is None else now_ms
        key = topic_keys(topic).groups

        def judge(pipe: Any) -> list[str]:
            seen = {name: abs(int(at)) for name, at in pipe.hgetall(key).items()}
            forgotten = []
            marks: dict[bytes, int] = {}
            for name in [group["name"] for group in groups_of(self._client, topic).values()]:
                last = max(seen.get(name, 0), now - self._idle(topic, name, after_ms))
                if name not in seen and last <= now - after_ms:
                    last = now  # seen for the first time: its period starts now
                is_forgotten = now - last >= after_ms
                marks[name] = -last if is_forgotten else last
                if is_forgotten:
                    forgotten.append(group_name(name))
            pipe.multi()
            if marks:
                pipe.hset(key, mapping=marks)
                pipe.pexpire(key, TTL_MS)
            return forgotten

        # A consumer that starts meanwhile writes to the watched key, and the transaction is repeated.
        return self._client.transaction(judge, key, value_from_callable=True)

    def _idle(self, topic: str, group: bytes, longest: int) -> int:
        """Return the ms since any of the group's consumers last read; `longest` if there is no consumer."""
        return min((c["idle"] for c in self._client.xinfo_consumers(topic, group)), default=longest)


def _named(writer: str) -> str:
    kind, _, name = writer.partition(":")
    return repr(name) if kind == "inlet" else f"the outlet with group {name!r}"
