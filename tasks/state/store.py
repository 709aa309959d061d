"""The kept state of a group in Redis, and the transaction that stores a cut: state, results and acknowledgements together."""

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import redis

from tasks.base.logs import get_logger
from tasks.base.repeated_warnings import Repeated
from tasks.errors import StateConflictError
from tasks.group.consumer import Consumer
from tasks.reservoir import Reservoir
from tasks.reservoir.fence import Fence
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import (
    TOPIC_KEY_TYPES,
    cut_guard,
    dead_topic,
    letter_counts,
    push_record,
    retried_topic,
    state_key,
    topic_keys,
)
from tasks.reservoir.lua import load
from tasks.reservoir.retention import TTL_MS
from tasks.state.cut import Cut, Result, Stored
from tasks.state.stored_nodes import NODE, StoredNode, expect_known_format, fields_by_node, stored_nodes

__all__ = ["StateStore"]

logger = get_logger(__name__)

_BEGIN = load(__file__, "begin")
_CHECK = load(__file__, "check")
_ROOM = load(__file__, "room")
_APPENDED = load(__file__, "appended")
_WRITE = load(__file__, "write")
_END = load(__file__, "end")

_KINDS = {"stream": "streams", "hash": "hashes", "zset": "zsets", "string": "strings"}
_GUARD_TTL_MS = 60_000
# How long the appends of a cut are remembered while its transaction is sent again.
_RECORD_TTL_MS = 86_400_000


class StateStore:
    """The state of what a consumer owns: of its group, or of one partition. The reader's thread.

    One consumer owns the state: it alone reads entries and stores cuts. Each cut raises the version of the state by one, so that a
    consumer notices when Redis has gone back to an older state.
    """

    def __init__(self, client: redis.Redis, consumer: Consumer) -> None:
        self._client: Any = client
        self._consumer = consumer
        self._group = consumer.group
        self._key = state_key(consumer.scope)
        self._reservoir = Reservoir(client)
        self._nodes: dict[str, StoredNode] = {}
        self._version = 0
        self._warn = Repeated(logger)
        self._kinds: Mapping[str, str] = {}
        self._records: tuple[str, dict[tuple[str, Keep | None], str]] = "", {}
        self.is_loaded = False
        """Whether this consumer may store cuts."""

    def load(self) -> Stored:
        """Return the stored state of all nodes; from now on this consumer, its owner, may store cuts."""
        version, fields = None, {}
        while version != (version := self._client.hget(self._key, "version")):  # a reset may come between
            fields: dict[bytes, bytes] = dict(self._client.hscan_iter(self._key, count=1000))
        expect_known_format(fields, self._group)
        self._version = int(fields.get(b"version", 0))
        self._nodes = stored_nodes(fields)
        self.is_loaded = True  # not before: after a lost reply, it is loaded again
        return fields_by_node(fields, self._nodes)

    def expect_ownership(self) -> None:
        """Raise if the stored state is not this consumer's any more.

        raises    StateConflictError: the stored state is another one than this consumer's
        """
        owner, version = self._client.hmget(self._key, "owner", "version")
        if self.is_loaded and (owner, version) != (self._consumer.membership.name.encode(), b"%d" % self._version):
            raise self._conflict(version)

    def _conflict(self, version: bytes | None) -> StateConflictError:
        return StateConflictError(
            f"group {self._group!r}: expected its stored state at version {self._version}, owned by this consumer, got version "
            f"{(version or b'none').decode()}: Redis has gone back to an older state, or the state was reset; the entries since then are "
            "redelivered"
        )

    def commit(self, cut: Cut) -> bool:
        """Store a cut, append its results, acknowledge its entries and dead-letter the failed ones: all or nothing.

        Redis does not undo what a transaction did before a refused command. So each step is done only if all before it were, and the
        first steps try the commands of the later ones without an effect.

        Returns False if a topic of the results is full: call it again. A cut that is sent again changes nothing.

        raises    LeaseLostError: other consumers took this one for dead
                  StateConflictError: the stored state is another one than this consumer's
                  redis.RedisError: Redis gave no answer, or refuses a command; nothing was acknowledged
        """
        membership = self._consumer.membership
        guard = Fence(self._group, cut_guard(self._consumer.scope), cut.id)
        records, last_read = self._records_of(cut), self._consumer.last_read
        now = time.time()
        described = {
            change.node: StoredNode(
                change.node, self._node(change.node), change.fingerprint, change.fields, change.size, now
            )
            for change in cut.changes
        }
        changes = [(described[change.node].prefix, change) for change in cut.changes]
        done = cut.done_by_topic()
        with self._client.pipeline(transaction=True) as pipe:
            # Without the guard, all would be allowed. If this command is refused, Redis refuses the whole transaction.
            pipe.set(guard.lease, "", px=_GUARD_TTL_MS)
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
                done=[" ".join(done.get(topic, ())) for topic in last_read],
            )
            self._kinds = kinds = self._kinds_of(cut)
            _CHECK.queue(
                pipe,
                guard=guard.lease,
                cut=cut.id,
                **{several: [key for key, each in kinds.items() if each == kind] for kind, several in _KINDS.items()},
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
            _APPENDED.queue(pipe, guard=guard.lease, records=list(records.values()), cut=cut.id)
            self._consumer.queue_dead_letters(pipe, cut.letters(), guard=guard)
            _WRITE.queue(
                pipe,
                guard=guard.lease,
                state=self._key,
                cut=cut.id,
                version=self._version + 1,
                time=round(now, 3),
                nodes=list(
                    itertools.chain(*((NODE + name.encode(), node.packed()) for name, node in described.items()))
                ),
                fields=[
                    part
                    for prefix, change in changes
                    for name, data in change.stored.items()
                    for part in (prefix + name, data)
                ],
                removed=[prefix + name for prefix, change in changes for name in change.removed],
            )
            self._consumer.queue_acks(pipe, done, guard=guard, with_results=cut.recorded)
            _END.queue(pipe, guard=guard.lease, records=list(records.values()), cut=cut.id)
            _, *replies = pipe.execute(raise_on_error=False)
        self._check(cut, replies)
        if (outcome := replies[-1]) == b"full":
            self._warn(f"group {self._group!r}: a topic of its results is full; entries wait", detail="no room")
            return False
        if outcome == b"stored":  # by an earlier call, whose acknowledgements may have been refused
            self._consumer.ack_all(done)
        self._version += 1
        self._nodes |= described
        self._records = "", {}
        self._consumer.settled(done, [(one.topic, one.id) for one in cut.failed])
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
        errors = [reply for reply in replies if isinstance(reply, redis.RedisError)]
        if replies[-1] in (cut.id.encode(), b"stored", b"full") and not errors:
            return
        if errors:
            raise errors[0]
        msg = f"group {self._group!r}: expected Redis to store a cut, got {replies[-1]!r} without a reason; it is sent again"
        raise redis.ResponseError(msg)

    def _kinds_of(self, cut: Cut) -> dict[str, str]:
        """Return the keys of the topics and dead letters that a cut appends to, with their types."""
        kinds: dict[str, str] = {}
        for topic in {one.topic for one in cut.results}:
            kinds |= dict(zip(topic_keys(topic), TOPIC_KEY_TYPES, strict=True))
        for topic in {retried_topic(one.topic, self._group) or one.topic for one in (*cut.failed, *cut.parts)}:
            kinds |= {
                dead_topic(topic, self._group): "stream",
                letter_counts(topic): "hash",
                topic_keys(topic).spilled: "hash",
            }
        return kinds

    def explained(self, error: redis.ResponseError) -> redis.ResponseError:
        """Return an error of a step or a cut with the key that caused it, and what to do."""
        return self._consumer.explained(error, self._kinds)

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
