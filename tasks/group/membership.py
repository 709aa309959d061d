"""Membership in a consumer group: the living consumers, and the pending entries of each.

A consumer is alive while its lease exists: a key with a TTL that holds the consumer's token. Every script that moves or
acknowledges entries checks the lease first, so that no entry is taken from a living consumer, and a dead one acknowledges
nothing. Idle time is no evidence: a window may hold an entry for hours.
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
from tasks.group.dead_letter_limits import DeadLetterLimits
from tasks.group.lease_scripts import (
    ACK,
    COUNT,
    DEAD_LETTER,
    LAPSE,
    MOVE,
    RELEASE,
    RENEW,
    RETIRE,
    ack_arguments,
    letter_arguments,
)
from tasks.reservoir.fence import Fence
from tasks.reservoir.groups import groups_of
from tasks.reservoir.keys import (
    TOPIC_KEY_TYPES,
    dead_topic,
    lease_key,
    result_record,
    retried_topic,
    state_key,
    topic_keys,
)
from tasks.reservoir.refusals import explained

__all__ = ["HANDED_BACK", "Membership", "Peer"]

logger = get_logger(__name__)

# The consumer that holds the entries that stopped consumers gave back. It has no lease, so any consumer may claim from it.
HANDED_BACK = "handed-back"
# How long a consumer that was taken for dead can find out that its entries were claimed.
TOMBSTONE_TTL_MS = 86_400_000
TOMBSTONE = "claimed"
# Redis counts leases in whole milliseconds.
LEAST_LEASE = 0.001
# Leases are renewed every quarter of their TTL. After this share of it without a renewal, leases of other consumers may have
# expired, too.
_EXPIRES_SOON = 0.7
# Entries per script: an id takes about 20 bytes, and a script blocks the whole server.
_MOVED_AT_ONCE = 1_000
_ACKNOWLEDGED_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Peer:
    """Another consumer of the group on one topic. `lease_ms` is the remaining time of its lease, 0 if it has none."""

    name: str
    pending: int
    lease_ms: int


class Membership:
    """One consumer's lease in a group, and the operations on entries that are allowed while it holds the lease.

    name       unique to this consumer; a successor has a name of its own
    lease_ttl  seconds without a renewal after which the consumer counts as dead
    """

    def __init__(self, client: redis.Redis, group: str, *, name: str | None = None, lease_ttl: float = 10.0) -> None:
        self.group = group
        self.name = name or uuid.uuid4().hex
        self.lease_ttl = seconds(lease_ttl, name="lease_ttl", least=LEAST_LEASE)
        self._client = client
        # The TTL is part of the token, so that other consumers know the longest time between two renewals.
        self._token = f"{uuid.uuid4().hex}:{int(self.lease_ttl * 1000)}"
        self.fence = Fence(group, self._lease(), self._token)
        self._alive: set[str] = set()
        self._lease_seen: dict[str, int] = {}
        self._odd_since: dict[tuple[str, bytes], float] = {}
        self._waiting_since: dict[str, float] = {}
        self._renewed: float | None = None
        self._renew = RENEW.on(client)
        self._release = RELEASE.on(client)
        self._lapse = LAPSE.on(client)
        self._move = MOVE.on(client)
        self._count = COUNT.on(client)
        self._retire = RETIRE.on(client)
        self._ack = ACK.on(client)
        self._dead_letter = DEAD_LETTER.on(client)

    def renew(self) -> bool:
        """Renew the lease for another TTL; return False if that was so late that this or other leases may have expired.

        raises    LeaseLostError: another consumer took this one for dead and claimed its entries
        """
        began = _uptime()
        since = 0.0 if self._renewed is None else began - self._renewed
        if since > TOMBSTONE_TTL_MS / 2000:
            self.still_held(-1)
        answer = self._renew(lease=self._lease(), token=self._token, ttl_ms=int(self.lease_ttl * 1000))
        self._renewed = began
        # After an outage for all consumers, the one that renewed last before it still has its lease.
        return bool(self.still_held(answer)) and since < _EXPIRES_SOON * self.lease_ttl

    def release(self, *, given_back: bool = False) -> None:
        """Give up the lease, so that other consumers can claim pending entries at once.

        given_back   entries were given back: from now on this consumer can neither acknowledge them nor append their results
        """
        self._release(lease=self._lease(), tombstone=TOMBSTONE, ttl_ms=TOMBSTONE_TTL_MS, is_given_back=int(given_back))

    def peers(self, topic: str) -> tuple[list[Peer], int]:
        """Return the group's other consumers on `topic`, and the number of entries pending for this one.

        If another client removed or extended the TTL of a lease, its owner counts as alive for its own TTL: a living
        consumer renews the lease within that time.
        """
        found = self._client.xinfo_consumers(topic, self.group)
        # Names of foreign consumers may be no UTF-8.
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
        """Return the remaining ms of a peer's lease, 0 without one; delete a lease that was not renewed for its own TTL."""
        if holder is None or holder == TOMBSTONE.encode():
            return 0
        _, _, own_ttl = holder.partition(b":")
        longest = (
            int(own_ttl) if own_ttl.isdigit() else max(ttl, int(self.lease_ttl * 1000))
        )  # tokens of 0.1.0 have none
        key = peer, holder
        if 0 <= ttl <= longest:
            self._odd_since.pop(key, None)
            return max(ttl, 1)
        now = _uptime()
        since = self._odd_since.setdefault(key, now)
        if now - since <= longest / 1000 or not self._lapse(lease=self._lease(peer), token=holder, longest_ms=longest):
            return longest
        del self._odd_since[key]
        logger.warning(
            "group %r: consumer %r counts as dead: another client left its lease %s, and it was not renewed for %g s",
            self.group, peer, "without a TTL" if ttl < 0 else f"with a TTL of {ttl / 1000:g} s", longest / 1000,
        )  # fmt: skip
        return 0

    def register(self, topic: str) -> None:
        """Create this consumer in the group on `topic`. Before Redis 7.2, a blocked read does not."""
        self._client.xgroup_createconsumer(topic, self.group, self.name)

    def living(self, topics: Iterable[str]) -> set[str]:
        """Return the names of the group's other living consumers on these topics, even of those that have read nothing."""
        read = [topic for topic in topics if self.group in groups_of(self._client, topic)]
        return {peer.name for topic in read for peer in self.peers(topic)[0] if peer.lease_ms}

    def claim(self, topic: str, peer: str) -> list[str]:
        """Take over the pending entries of a dead peer, or of `HANDED_BACK`, on `topic`; return their ids, in order.

        That does not increase their delivery counts: see `count`.
        """
        return self._moved(topic, peer, to=self.name)

    def hand_back(self, topic: str) -> list[str]:
        """Give back all entries pending here on `topic`, so that any consumer can claim them at once; return their ids, in order."""
        return self._moved(topic, self.name, to=HANDED_BACK)

    def count(self, topic: str, deliveries: Mapping[str, int]) -> None:
        """Set the delivery counts of entries that are pending here, by their ids."""
        answer = self._count(
            lease=self._lease(),
            topic=topic,
            token=self._token,
            group=self.group,
            consumer=self.name,
            deliveries=list(itertools.chain(*deliveries.items())),
        )
        self.still_held(answer)

    def retire(self, topic: str, peer: str) -> bool:
        """Remove a dead consumer without pending entries; return whether it was removed."""
        return bool(
            self._retire(lease=self._lease(peer), topic=topic, group=self.group, consumer=peer, tombstone=TOMBSTONE)
        )

    def ack(self, done: Mapping[str, Sequence[str]], *, with_results: Collection[str] = ()) -> int:
        """Acknowledge entries while the lease is held; return how many were still pending.

        One script acknowledges all of them, or none; many thousands take several scripts.

        done           their ids, by topic
        with_results   the ids of those that have a record of results, which is not needed any more
        """
        acknowledged = 0
        for some in _in_parts(done):
            records = self._records(some, with_results)
            answer = self._ack(**ack_arguments(self.group, some, records, self.fence))
            acknowledged += self.still_held(answer)
        return acknowledged

    def _records(self, done: Mapping[str, Sequence[str]], with_results: Collection[str]) -> list[str]:
        if not with_results:
            return []
        return [
            result_record(self.group, topic, id_) for topic, ids in done.items() for id_ in ids if id_ in with_results
        ]

    def queue_ack(
        self, pipe: Any, done: Mapping[str, Sequence[str]], *, guard: Fence, with_results: Collection[str] = ()
    ) -> None:
        """Put the acknowledgement of entries into a transaction, to be done if `guard` holds its token; see `ack`."""
        for some in _in_parts(done):
            ACK.queue(pipe, **ack_arguments(self.group, some, self._records(some, with_results), guard))

    def dead_letter(
        self,
        topic: str,
        id: str,  # noqa: A002 - the field's own name
        about: Mapping[str, str],
        *,
        keep: DeadLetterLimits,
        only_pending: bool = False,
        part: Mapping[bytes, bytes] | None = None,
    ) -> bool:
        """Append an entry's fields, followed by `about`, to the dead letters and acknowledge the entry, both or neither.

        Returns whether it was appended. By default that includes entries that another client has acknowledged.

        only_pending   append nothing if the entry is no longer pending: an earlier attempt, whose reply was lost, may have
                       appended it
        part           append these fields in place of the entry's, and leave the entry as it is
        """
        arguments = letter_arguments(
            self.group, topic, id, about, keep=keep, only_pending=only_pending, fence=self.fence, part=part
        )
        return bool(self.still_held(self._dead_letter(**arguments)))

    def queue_dead_letter(
        self,
        pipe: Any,
        topic: str,
        id: str,  # noqa: A002 - the field's own name
        about: Mapping[str, str],
        *,
        keep: DeadLetterLimits,
        guard: Fence,
        part: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """Put a dead letter into a transaction, to be appended if `guard` holds its token; if refused, it changes the guard."""
        arguments = letter_arguments(self.group, topic, id, about, keep=keep, fence=guard, part=part)
        DEAD_LETTER.queue(pipe, **arguments | {"refusal": "refused"})

    def explained(
        self, error: redis.ResponseError, topics: Iterable[str], more: Mapping[str, str]
    ) -> redis.ResponseError:
        """Return an error of a command on these topics, or on `more` keys, with the key that caused it, and what to do."""
        keys = {self.fence.lease: "string", state_key(self.group): "hash", **more}
        for topic in topics:
            keys[topic] = "stream"
            if not retried_topic(topic, self.group):
                keys |= dict(zip(topic_keys(topic), TOPIC_KEY_TYPES, strict=True))
                keys[dead_topic(topic, self.group)] = "stream"
        return explained(error, self._client, keys, what=f"group {self.group!r} can neither continue nor acknowledge")

    def undecided(self, topics: Iterable[str]) -> bool:
        """Return whether a peer with pending entries may be dead, although it still has a lease.

        The lease of a killed consumer outlives it by up to one TTL. A successor that reads during that time gets new
        entries before the redelivered ones, and builds other windows than the dead consumer. So a successor waits until
        every peer has either renewed its lease or lost it.
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
        """Log once that this consumer waits for a peer, after it has waited for the TTL of a lease."""
        now = _uptime()
        if now - self._waiting_since.setdefault(peer.name, now) < self.lease_ttl:
            return
        self._waiting_since[peer.name] = float("inf")
        logger.warning(
            "group %r: waiting up to %g s for consumer %r to renew its lease: if it is dead, its %d pending entries of topic %r "
            "come before new ones",
            self.group, peer.lease_ms / 1000, peer.name, peer.pending, topic,
        )  # fmt: skip

    def _moved(self, topic: str, holder: str, *, to: str) -> list[str]:
        lease = self._lease(to if holder == self.name else holder)  # the lease of the other one of the two
        moved: list[str] = []
        while True:
            answer = self._move(
                lease=self._lease(),
                other_lease=lease,
                topic=topic,
                token=self._token,
                group=self.group,
                to=to,
                holder=holder,
                count=_MOVED_AT_ONCE,
                tombstone=TOMBSTONE,
                tombstone_ttl_ms=TOMBSTONE_TTL_MS,
            )
            if not (ids := self.found(answer)):
                return moved
            moved += [id_.decode() for id_ in ids]

    def _lease(self, name: str | None = None) -> str:
        return lease_key(self.group, name or self.name)

    def found(self, answer: Any) -> Any:
        """Return what a script has read, or raise LeaseLostError for None: other consumers took this one for dead."""
        self.still_held(-1 if answer is None else 0)
        return answer

    def still_held(self, answer: int) -> int:
        """Return the answer of a script, or raise LeaseLostError for -1: other consumers took this one for dead."""
        if answer < 0:
            msg = (
                f"consumer {self.name!r} of group {self.group!r} did not renew its lease for more than {self.lease_ttl:g} s and "
                "was taken for dead; its pending entries go to its successor"
            )
            raise LeaseLostError(msg)
        return answer


def _in_parts(done: Mapping[str, Sequence[str]]) -> Iterator[Mapping[str, Sequence[str]]]:
    """Yield the ids to acknowledge in one script each: all at once, unless that would block the server for long."""
    if sum(map(len, done.values())) <= _ACKNOWLEDGED_AT_ONCE:
        yield {topic: ids for topic, ids in done.items() if ids}
        return
    for topic, ids in done.items():
        for start in range(0, len(ids), _ACKNOWLEDGED_AT_ONCE):
            yield {topic: ids[start : start + _ACKNOWLEDGED_AT_ONCE]}


def _uptime() -> float:
    """Return seconds on a clock that is never set and, where the system has one, that runs while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
