"""What of a topic stays: in Redis, in the script that appends, and for topics that get no appends any more.

Beside a topic's stream, `topic_keys` names, all with a TTL:

tally    what was appended: seven numbers that the script of `Reservoir.append` names
state    a hash: what is to be kept, where retention stands, how many entries it has removed
index    a sorted set of samples: '<entry id> <bytes appended up to it>' by how many entries that was
groups   a hash: when each group was last seen (ms); below zero once it is forgotten
spilled  a hash: how many entries were dropped that a group had not read, by group; how many dead letters were dropped
         ('dead:<group>'), entries acknowledged ('done:<group>') and dead-lettered ('failed:<group>')
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
from tasks.reservoir.refusals import explained
from tasks.reservoir.topic_names import check_topic

__all__ = ["TTL_MS", "Retention", "Trimmed", "mark_seen"]

# Longer than any schedule's pause; renewed by each append and by the `trim` flow.
TTL_MS = 30 * 86_400_000
# An inlet's run declares at its start, and the next one relieves it after a minute.
LATELY_MS = 180_000

_TRIM = load(__file__, "trim")
_DECLARE = load(__file__, "declare")


def mark_seen(client: Any, topic: str, group: str) -> None:
    """Say that somebody reads `topic` with `group`: then nothing that it has not finished is removed."""
    key = topic_keys(topic).groups
    # A full server refuses it, and what was said before holds for days: who reads on makes room.
    with suppress(OutOfMemoryError), client.pipeline(transaction=False) as pipe:
        pipe.hset(key, group, int(time.time() * 1000))
        pipe.pexpire(key, TTL_MS)
        pipe.execute()


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What one trim of a topic removed: `spilled` of the `removed` entries had not been read by some live group."""

    topic: str
    removed: int
    spilled: int


class Retention:
    """What topics keep, apart from appends: declarations, groups that are forgotten, topics without appends."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._trim = _TRIM.on(client)
        self._declare = _DECLARE.on(client)

    def declare(self, topic: str, keep: Keep, *, inlet: str = "", group: str = "") -> None:
        """Declare what a topic keeps, for an inlet or for an outlet whose results go there.

        inlet     a name that no other inlet has: one that is run with other parameters is another one
        group     the outlet's consumer group, if it is an outlet that declares
        raises    SettingsError: another inlet or outlet declared something else in the last minutes
        """
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
            what = f"topic {topic!r}: what it keeps was not declared, nothing was pushed"
            raise explained(error, self._client, {state: "hash"}, what=what) from error
        if other:
            name, packed = (text.decode() for text in other)
            msg = (
                f"topic {topic!r}: expected keep and when_full to be the same in all its inlets, and in the outlets whose results go "
                f"there (into_keep, into_when_full), got {str(keep)!r} from {_named(writer)} and {str(Keep.unpacked(packed))!r} from "
                f"{_named(name)}; make them agree"
            )
            raise SettingsError(msg)

    def trim(self, topic: str) -> Trimmed | None:
        """Remove what a topic does not keep, as its appends do; None if nobody has said what it keeps."""
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
        """Let groups that nobody has read with for so long hold nothing back any more; return their names.

        A group that is read with again, by whichever client, counts again.
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
                    last = now  # seen for the first time: from now on it has as long as the others
                is_forgotten = now - last >= after_ms
                marks[name] = -last if is_forgotten else last
                if is_forgotten:
                    forgotten.append(group_name(name))
            pipe.multi()
            if marks:
                pipe.hset(key, mapping=marks)
                pipe.pexpire(key, TTL_MS)
            return forgotten

        # Who begins to read with a group meanwhile says so there: then they are judged again.
        return self._client.transaction(judge, key, value_from_callable=True)

    def _idle(self, topic: str, group: bytes, longest: int) -> int:
        """Return for how many ms none of a group's consumers has asked for anything; `longest` if it has none."""
        return min((c["idle"] for c in self._client.xinfo_consumers(topic, group)), default=longest)


def _named(writer: str) -> str:
    kind, _, name = writer.partition(":")
    return repr(name) if kind == "inlet" else f"the outlet with group {name!r}"
