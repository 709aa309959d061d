"""The kept state of a group in Redis, and the transaction that stores a cut: state, results and acknowledgements together."""

import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import redis

from tasks.base.logs import get_logger
from tasks.base.repeated_warnings import Repeated
from tasks.errors import StateConflictError
from tasks.group.consumer import Consumer
from tasks.group.membership import TOMBSTONE, TOMBSTONE_TTL_MS
from tasks.reservoir import Reservoir
from tasks.reservoir.fence import Fence
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import cut_guard, lease_key, push_record, state_key, topic_keys
from tasks.reservoir.lua import load
from tasks.reservoir.retention import TTL_MS
from tasks.state.cut import Cut, Result, Stored

__all__ = ["StateStore", "StoredNode", "fields_by_node", "stored_nodes"]

logger = get_logger(__name__)

_OWN = load(__file__, "own")
_BEGIN = load(__file__, "begin")
_ROOM = load(__file__, "room")
_WRITE = load(__file__, "write")
_END = load(__file__, "end")

_GUARD_TTL_MS = 60_000
# How long the appends of a cut are remembered while its transaction is sent again.
_RECORD_TTL_MS = 86_400_000
_NODE = b"node:"


@dataclass(frozen=True, slots=True)
class StoredNode:
    """What is stored of one node.

    number       prefix of its fields
    fingerprint  type and parameters of the node
    fields, size   number and bytes of its fields
    time         Unix time of the last change, in seconds
    """

    name: str
    number: int
    fingerprint: str
    fields: int
    size: int
    time: float

    def packed(self) -> str:
        """Return the value of the node's own field."""
        return json.dumps([self.number, self.fingerprint, self.fields, self.size, round(self.time, 3)])

    @classmethod
    def unpacked(cls, name: bytes, value: bytes) -> "StoredNode":
        """Return the node that a field describes."""
        return cls(name.removeprefix(_NODE).decode(), *json.loads(value))

    def field(self, name: bytes) -> bytes:
        """Return the name that one of the node's fields has in the hash of all nodes."""
        return b"%d:%s" % (self.number, name)


def stored_nodes(fields: Mapping[bytes, bytes]) -> dict[str, StoredNode]:
    """Return the nodes that a hash of state describes, by name."""
    found = (StoredNode.unpacked(name, value) for name, value in fields.items() if name.startswith(_NODE))
    return {node.name: node for node in found}


def fields_by_node(fields: Mapping[bytes, bytes], nodes: Mapping[str, StoredNode]) -> Stored:
    """Return the fingerprint and the own fields of each node from a hash of state."""
    names = {node.number: node.name for node in nodes.values()}
    found: dict[str, dict[bytes, bytes]] = {name: {} for name in nodes}
    for name, value in fields.items():
        number, colon, field = name.partition(b":")
        if colon and number.isdigit() and (node := names.get(int(number))):
            found[node][field] = value
    return {name: (node.fingerprint, found[name]) for name, node in nodes.items()}


class StateStore:
    """The state of a consumer's group, which the consumer owns after `acquire`. The reader's thread.

    One consumer of a group owns its state: it alone reads entries and stores cuts. Each cut raises the version of the state by
    one, so that a consumer notices when Redis has gone back to an older state.
    """

    def __init__(self, client: redis.Redis, consumer: Consumer) -> None:
        self._client: Any = client
        self._consumer = consumer
        self._group = consumer.group
        self._key = state_key(consumer.group)
        self._reservoir = Reservoir(client)
        self._own = _OWN.on(client)
        self._nodes: dict[str, StoredNode] = {}
        self._version = 0
        self._warn = Repeated(logger)
        self._waiting_since: float | None = None
        self._records: tuple[str, dict[tuple[str, Keep | None], str]] = "", {}
        self.is_owner = False
        """Whether this consumer may read entries and store cuts."""

    def acquire(self) -> bool:
        """Become the owner if no living consumer is; return whether this one is.

        raises    LeaseLostError: other consumers took this one for dead
        """
        membership = self._consumer.membership
        while True:
            owner = self._client.hget(self._key, "owner") or b""
            holder = owner.decode() or membership.name
            answer = self._own(
                lease=membership.fence.lease,
                state=self._key,
                owner_lease=lease_key(self._group, holder),
                topics=self._consumer.topics,
                token=membership.fence.token,
                name=membership.name,
                owner=owner,
                tombstone=TOMBSTONE,
                tombstone_ttl_ms=TOMBSTONE_TTL_MS,
                group=self._group,
            )
            membership.still_held(answer)
            if answer == 1:
                return True
            if answer == 0:
                self._mention(holder)
                return False

    def _mention(self, holder: str) -> None:
        """Log once that this consumer waits, unless the holder may be dead, with a lease that has not expired yet."""
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        elif now - self._waiting_since > self._consumer.membership.lease_ttl:
            self._waiting_since = float("inf")
            logger.warning(
                "group %r keeps state, which one consumer owns at a time: waiting for consumer %r to end; for several runs side by "
                "side use keep_state=False",
                self._group, holder,
            )  # fmt: skip

    def load(self) -> Stored:
        """Return the stored state of all nodes; from now on this consumer may store cuts. Follows `acquire`."""
        version, fields = None, {}
        while version != (version := self._client.hget(self._key, "version")):  # a reset may come between
            fields: dict[bytes, bytes] = dict(self._client.hscan_iter(self._key, count=1000))
        self._version = int(fields.get(b"version", 0))
        self._nodes = stored_nodes(fields)
        self.is_owner = True  # not before: after a lost reply, it is loaded again
        return fields_by_node(fields, self._nodes)

    def expect_ownership(self) -> None:
        """Raise if the stored state is not this consumer's any more.

        raises    StateConflictError: the stored state is another one than this consumer's
        """
        owner, version = self._client.hmget(self._key, "owner", "version")
        if self.is_owner and (owner, version) != (self._consumer.membership.name.encode(), b"%d" % self._version):
            raise self._conflict(version)

    def _conflict(self, version: bytes | None) -> StateConflictError:
        return StateConflictError(
            f"group {self._group!r}: expected its stored state at version {self._version}, owned by this consumer, got version "
            f"{(version or b'none').decode()}: Redis has gone back to an older state, or the state was reset; the entries since then are "
            "redelivered"
        )

    def commit(self, cut: Cut) -> bool:
        """Store a cut, append its results, acknowledge its entries and dead-letter the failed ones: all or nothing.

        Returns False if a topic of the results is full: call it again. A cut that is sent again changes nothing.

        raises    LeaseLostError: other consumers took this one for dead
                  StateConflictError: the stored state is another one than this consumer's
                  redis.RedisError: Redis gave no answer, or refuses a command; nothing was acknowledged
        """
        membership = self._consumer.membership
        guard = Fence(self._group, cut_guard(self._group), cut.id)
        records, last_read = self._records_of(cut), self._consumer.last_read
        now = time.time()
        described = {
            change.node: StoredNode(
                change.node, self._node(change.node), change.fingerprint, change.fields, change.size, now
            )
            for change in cut.changes
        }
        with self._client.pipeline(transaction=True) as pipe:
            _BEGIN.queue(
                pipe,
                lease=membership.fence.lease,
                state=self._key,
                guard=guard.lease,
                topics=list(last_read),
                token=membership.fence.token,
                name=membership.name,
                version=self._version,
                cut=cut.id,
                ttl_ms=_GUARD_TTL_MS,
                group=self._group,
                last_read=list(last_read.values()),
            )
            appends = list(_by_topic(cut.results))
            for topic, keep, results in appends:
                packed = keep.packed() if keep else ""
                keys = topic_keys(topic)._asdict()
                _ROOM.queue(pipe, guard=guard.lease, **keys, cut=cut.id, keep=packed, ttl_ms=TTL_MS, count=len(results))
            for topic, keep, results in appends:
                self._reservoir.queue_append(
                    pipe, topic, [one.fields for one in results], record=records[topic, keep], keep=keep, fence=guard, ttl_ms=_RECORD_TTL_MS
                )  # fmt: skip
            _WRITE.queue(
                pipe,
                guard=guard.lease,
                state=self._key,
                records=list(records.values()),
                cut=cut.id,
                version=self._version + 1,
                time=round(now, 3),
                nodes=list(
                    itertools.chain(*((_NODE + name.encode(), node.packed()) for name, node in described.items()))
                ),
                fields=[
                    part
                    for change in cut.changes
                    for name, data in change.stored.items()
                    for part in (described[change.node].field(name), data)
                ],
                removed=[described[change.node].field(name) for change in cut.changes for name in change.removed],
            )
            self._consumer.queue_settlement(pipe, cut.done, cut.letters(), guard=guard)
            _END.queue(pipe, guard=guard.lease, records=list(records.values()), cut=cut.id)
            replies = pipe.execute(raise_on_error=False)
        self._check(cut, replies)
        if (outcome := replies[-1]) == b"full":
            self._warn(f"group {self._group!r}: a topic of its results is full; entries wait", detail="no room")
            return False
        assert outcome in (cut.id.encode(), b"stored"), outcome
        self._version += 1
        self._nodes |= described
        self._records = "", {}
        self._consumer.settled([*cut.done, *((one.topic, one.id) for one in cut.failed)])
        return True

    def _check(self, cut: Cut, replies: list[Any]) -> None:
        """Raise the error that kept the transaction from storing the cut."""
        if isinstance(begun := replies[0], redis.RedisError):
            raise begun
        if begun == b"lease":
            self._consumer.membership.still_held(-1)
        if begun.startswith(b"other"):
            raise self._conflict(begun.split()[1])
        if begun == b"unread":
            msg = (
                f"group {self._group!r}: expected the entries that this consumer has read to be delivered to it, got a topic whose group "
                "has not read as far: Redis has gone back to an older state, or the group was set back; the entries since then are redelivered"
            )
            raise StateConflictError(msg)
        if replies[-1] in (cut.id.encode(), b"stored", b"full"):
            return
        errors = [reply for reply in replies if isinstance(reply, redis.RedisError)]
        if replies[-1] == b"type" and not errors:
            topics = sorted({one.topic for one in cut.results})
            errors = [redis.ResponseError(f"WRONGTYPE expected a stream under {' or '.join(map(repr, topics))}")]
        if errors:
            raise errors[0]
        msg = f"group {self._group!r}: a cut was not stored, and Redis does not tell why ({replies[-1]!r})"
        raise redis.ResponseError(msg)

    def _records_of(self, cut: Cut) -> dict[tuple[str, Keep | None], str]:
        """Return the records of the appends of a cut: the same ones when it is sent again."""
        if self._records[0] != cut.id:
            self._records = cut.id, {(one.topic, one.keep): push_record() for one in cut.results}
        return self._records[1]

    def _node(self, name: str) -> int:
        known = self._nodes.get(name)
        if known is not None:
            return known.number
        number = 1 + max((node.number for node in self._nodes.values()), default=0)
        self._nodes[name] = StoredNode(name, number, "", 0, 0, 0.0)
        return number


def _by_topic(results: Iterable[Result]) -> Iterator[tuple[str, Keep | None, list[Result]]]:
    """Yield the results of each topic, in order."""
    found: dict[tuple[str, Keep | None], list[Result]] = {}
    for one in results:
        found.setdefault((one.topic, one.keep), []).append(one)
    for (topic, keep), several in found.items():
        yield topic, keep, several
