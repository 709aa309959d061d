"""Who is alive in a consumer group, and whose entries are whose.

A consumer is alive while its lease (a key with a TTL, holding its own token) is there. Whatever moves entries
from one consumer to another asks for the lease in the same script, so that no entry is taken from the living
and nothing is acknowledged by the dead. Idle time says nothing: a window may hold an entry for hours.
"""

import itertools
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from tasks.base.logs import get_logger
from tasks.checks import seconds
from tasks.errors import LeaseLostError
from tasks.group.dead_letter_bounds import LetterBounds
from tasks.group.lease_scripts import ACK, COUNT, DEAD_LETTER, LAPSE, MOVE, RELEASE, RENEW, RETIRE
from tasks.reservoir.fence import Fence
from tasks.reservoir.groups import groups_of
from tasks.reservoir.keys import (
    TOPIC_KEY_TYPES,
    dead_topic,
    lease_key,
    letter_counts,
    result_record,
    retried_topic,
    topic_keys,
)
from tasks.reservoir.refusals import explained
from tasks.reservoir.results import STRAGGLERS_MS

__all__ = ["HANDED_BACK", "Membership", "Peer"]

logger = get_logger(__name__)

# The consumer that holds what was given back in good order. It has no lease, so anybody may claim from it.
HANDED_BACK = "handed-back"
# How long a consumer that comes back from the dead can still learn that its entries were claimed.
TOMBSTONE_TTL_MS = 86_400_000
TOMBSTONE = "claimed"
# Redis counts leases in whole milliseconds.
LEAST_LEASE = 0.001
# Leases are renewed every quarter of their TTL: after so much of it without a renewal, others' may have lapsed.
_EXPIRES_SOON = 0.7
# Moved in one script: an id is about 20 bytes, and a script holds up the whole server.
_MOVED_AT_ONCE = 1_000
_ACKNOWLEDGED_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Peer:
    """Another consumer of the group on one topic, and for how long its lease still runs: 0 if it has none."""

    name: str
    pending: int
    lease_ms: int


class Membership:
    """One consumer's place in a group: its lease, and what it may do with entries while it holds it.

    name       unique to this consumer; a successor takes a name of its own
    lease_ttl  seconds without a renewal after which the consumer counts as dead
    """

    def __init__(self, client: redis.Redis, group: str, *, name: str | None = None, lease_ttl: float = 10.0) -> None:
        self.group = group
        self.name = name or uuid.uuid4().hex
        self.lease_ttl = seconds(lease_ttl, name="lease_ttl", least=LEAST_LEASE)
        self._client = client
        # With the lease's TTL, so that others know how often it is renewed at least.
        self._token = f"{uuid.uuid4().hex}:{int(self.lease_ttl * 1000)}"
        self.fence = Fence(group, self._lease(), self._token)
        self._alive: set[str] = set()
        self._lease_seen: dict[str, int] = {}
        self._odd_since: dict[tuple[str, bytes], float] = {}
        self._waiting_since: dict[str, float] = {}
        self._renewed: float | None = None
        self._renew = client.register_script(RENEW)
        self._release = client.register_script(RELEASE)
        self._lapse = client.register_script(LAPSE)
        self._move = client.register_script(MOVE)
        self._count = client.register_script(COUNT)
        self._retire = client.register_script(RETIRE)
        self._ack = client.register_script(ACK)
        self._dead_letter = client.register_script(DEAD_LETTER)

    def renew(self) -> bool:
        """Hold the lease for another TTL; False if it came so late that others' may have lapsed, or even this one.

        raises    LeaseLostError: somebody took this consumer for dead and claimed its entries
        """
        began = _uptime()
        since = 0.0 if self._renewed is None else began - self._renewed
        if since > TOMBSTONE_TTL_MS / 2000:
            self._still_held(-1)
        answer = self._renew(keys=[self._lease()], args=[self._token, int(self.lease_ttl * 1000)])
        self._renewed = began
        # In an outage that all share, who renewed last before it comes back with a lease that still runs.
        return bool(self._still_held(answer)) and since < _EXPIRES_SOON * self.lease_ttl

    def release(self, *, given_back: bool = False) -> None:
        """Give the lease up, so that what is still pending can be claimed at once.

        given_back   entries were: what is still made of them here is neither acknowledged nor appended any more
        """
        self._release(keys=[self._lease()], args=[TOMBSTONE, TOMBSTONE_TTL_MS, int(given_back)])

    def peers(self, topic: str) -> tuple[list[Peer], int]:
        """Return the group's other consumers on `topic`, and how many entries are pending here.

        A consumer whose lease another client gave no TTL, or a longer one than its own, is alive for its own TTL yet: one
        that lives renews it by then.
        """
        found = self._client.xinfo_consumers(topic, self.group)
        # A name that is no text, which none of ours has, must not stop those that are.
        pending = {c["name"].decode(errors="backslashreplace"): c["pending"] for c in found}
        own = pending.pop(self.name, 0)
        with self._client.pipeline(transaction=False) as pipe:
            for name in pending:
                pipe.get(self._lease(name))
                pipe.pttl(self._lease(name))
            answers = pipe.execute() if pending else []
        return [
            Peer(name, count, self._lease_left(name, holder, ttl))
            for (name, count), holder, ttl in zip(pending.items(), answers[::2], answers[1::2], strict=True)
        ], own

    def _lease_left(self, peer: str, holder: bytes | None, ttl: int) -> int:
        """Return for how many ms a peer's lease still runs, 0 if it has none; end one that was not renewed for its own TTL."""
        if holder is None or holder == TOMBSTONE.encode():
            return 0
        _, _, own_ttl = holder.partition(b":")
        longest = int(own_ttl) if own_ttl.isdigit() else max(ttl, int(self.lease_ttl * 1000))  # 0.1.0's has none
        key = peer, holder
        if 0 <= ttl <= longest:
            self._odd_since.pop(key, None)
            return max(ttl, 1)
        now = _uptime()
        since = self._odd_since.setdefault(key, now)
        if now - since <= longest / 1000 or not self._lapse(keys=[self._lease(peer)], args=[holder, longest]):
            return longest
        del self._odd_since[key]
        logger.warning(
            "group %r: the lease of consumer %r %s, which its owner never sets, and was not renewed for %g s; it counts as dead",
            self.group, peer, "had no TTL" if ttl < 0 else f"was to run for {ttl / 1000:g} s", longest / 1000,
        )  # fmt: skip
        return 0

    def register(self, topic: str) -> None:
        """Have the group know this consumer on `topic`; before Redis 7.2 a read that waits does not."""
        self._client.xgroup_createconsumer(topic, self.group, self.name)

    def living(self, topics: Iterable[str]) -> set[str]:
        """Return the names of the group's other consumers on these topics that live, those included that have read nothing."""
        read = [topic for topic in topics if self.group in groups_of(self._client, topic)]
        return {peer.name for topic in read for peer in self.peers(topic)[0] if peer.lease_ms}

    def claim(self, topic: str, peer: str) -> list[str]:
        """Take over what a dead peer, or `HANDED_BACK`, has pending on `topic`; return its ids, in order.

        No delivery is counted by that: see `count`.
        """
        return self._moved(topic, peer, to=self.name)

    def hand_back(self, topic: str) -> list[str]:
        """Give back all that is pending here on `topic`, for anybody to claim at once; return its ids, in order."""
        return self._moved(topic, self.name, to=HANDED_BACK)

    def count(self, topic: str, deliveries: Mapping[str, int]) -> None:
        """Set how often entries that are pending here count as delivered, by their ids."""
        args = [self._token, self.group, self.name, *itertools.chain(*deliveries.items())]
        self._still_held(self._count(keys=[self._lease(), topic], args=args))

    def retire(self, topic: str, peer: str) -> bool:
        """Remove a dead consumer that has nothing pending; return whether it was removed."""
        return bool(self._retire(keys=[self._lease(peer), topic], args=[self.group, peer, TOMBSTONE]))

    def ack(self, done: Mapping[str, Sequence[str]], *, with_results: Collection[str] = ()) -> int:
        """Acknowledge entries of some topics while the lease holds; return how many were still pending.

        All of them, or none: in one script, but where they are many thousands.

        done           their ids, by topic
        with_results   the ids of those that keep records of results, which are not needed any more
        """
        acknowledged = 0
        for some in _in_parts(done):
            records = [
                result_record(self.group, topic, id_)
                for topic, ids in some.items()
                for id_ in ids
                if with_results and id_ in with_results
            ]
            args: list[Any] = [self._token, self.group, STRAGGLERS_MS, len(some)]
            for topic, ids in some.items():
                args += int(retried_topic(topic, self.group) is not None), " ".join(ids)
            acknowledged += self._still_held(self._ack(keys=[self._lease(), *some, *records], args=args))
        return acknowledged

    def dead_letter(
        self,
        topic: str,
        id: str,  # noqa: A002 - the field's own name
        about: Mapping[str, str],
        *,
        keep: LetterBounds,
        only_pending: bool = False,
    ) -> bool:
        """Append an entry's fields, and those `about` it, to the dead letters and acknowledge it, both or neither.

        Returns whether it was appended. An entry that another client has acknowledged meanwhile is.

        only_pending   append nothing if it is no longer pending: an attempt whose reply was lost may have done it
        """
        pushed_to = retried_topic(topic, self.group) or topic
        values = [text.encode(errors="backslashreplace") for pair in about.items() for text in pair]
        kept = f"{keep.max_letters} {keep.max_bytes} {keep.min_bytes}"
        args = [self._token, self.group, id, kept, STRAGGLERS_MS, pushed_to, int(only_pending), *values]
        keys = [self._lease(), topic, dead_topic(pushed_to, self.group), result_record(self.group, topic, id)]
        keys += [letter_counts(pushed_to), topic_keys(pushed_to).spilled, topic_keys(pushed_to).state]
        return bool(self._still_held(self._dead_letter(keys=keys, args=args)))

    def explained(self, error: redis.ResponseError, topics: Iterable[str]) -> redis.ResponseError:
        """Return an error of something done here on these topics with the key that it is about, and what to do."""
        keys = {self.fence.lease: "string"}
        for topic in topics:
            keys[topic] = "stream"
            if not retried_topic(topic, self.group):
                keys |= dict(zip(topic_keys(topic), TOPIC_KEY_TYPES, strict=True))
                keys[dead_topic(topic, self.group)] = "stream"
        return explained(error, self._client, keys, what=f"group {self.group!r} can neither go on nor acknowledge")

    def undecided(self, topics: Iterable[str]) -> bool:
        """Return whether some peer with entries pending may be dead, though its lease still runs.

        A killed consumer's lease outlives it by up to one TTL. A successor that read on meanwhile would see
        new entries before the redelivered ones, and its windows would not be those the dead one had. So it
        asks until every peer has either renewed its lease, or lost it.
        """
        waiting = False
        for topic in topics:
            for peer in self.peers(topic)[0]:
                if not peer.pending or not peer.lease_ms or peer.name in self._alive:
                    continue
                if peer.lease_ms > self._lease_seen.get(peer.name, peer.lease_ms):
                    self._alive.add(peer.name)
                else:
                    self._lease_seen[peer.name] = peer.lease_ms
                    waiting = True
                    self._mention(topic, peer)
        return waiting

    def _mention(self, topic: str, peer: Peer) -> None:
        """Log that a consumer is waited for, once, when that has taken a lease's time."""
        now = _uptime()
        if now - self._waiting_since.setdefault(peer.name, now) < self.lease_ttl:
            return
        self._waiting_since[peer.name] = float("inf")
        logger.warning(
            "group %r: waits for consumer %r, whose lease runs for another %g s at most: if it is dead, its %d entries pending on "
            "topic %r come before anything new",
            self.group, peer.name, peer.lease_ms / 1000, peer.pending, topic,
        )  # fmt: skip

    def _moved(self, topic: str, holder: str, *, to: str) -> list[str]:
        lease = self._lease(to if holder == self.name else holder)  # of the two the other's
        args = [self._token, self.group, to, holder, _MOVED_AT_ONCE, TOMBSTONE, TOMBSTONE_TTL_MS]
        moved: list[str] = []
        while True:
            ids = self._move(keys=[self._lease(), lease, topic], args=args)
            if not ids:
                self._still_held(-1 if ids is None else 0)
                return moved
            moved += [id_.decode() for id_ in ids]

    def _lease(self, name: str | None = None) -> str:
        return lease_key(self.group, name or self.name)

    def _still_held(self, answer: int) -> int:
        if answer < 0:
            msg = (
                f"consumer {self.name!r} of group {self.group!r} was silent for more than {self.lease_ttl:g} s and was "
                "taken for dead; its pending entries go to its successor"
            )
            raise LeaseLostError(msg)
        return answer


def _in_parts(done: Mapping[str, Sequence[str]]) -> Iterator[Mapping[str, Sequence[str]]]:
    """Yield what is to be acknowledged in one script each time: all of it, but where that would hold up the server."""
    if sum(map(len, done.values())) <= _ACKNOWLEDGED_AT_ONCE:
        yield {topic: ids for topic, ids in done.items() if ids}
        return
    for topic, ids in done.items():
        for start in range(0, len(ids), _ACKNOWLEDGED_AT_ONCE):
            yield {topic: ids[start : start + _ACKNOWLEDGED_AT_ONCE]}


def _uptime() -> float:
    """Return seconds on a clock that nobody sets, and that goes on while the machine sleeps where there is such a one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
