"""One member of a consumer group: reads, recovers and acknowledges entries, step by step, in one thread."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import redis

from tasks.base.ids import id_numbers
from tasks.checks import check_group
from tasks.codec.decoding import DEFAULT_DECODING, Decoding
from tasks.codec.limits import DEFAULT_LIMITS
from tasks.errors import SettingsError
from tasks.group.delivery import Undecodable, delivered
from tasks.group.held_entries import HeldEntries, Queued
from tasks.group.membership import Membership
from tasks.group.merging import Merging, Raw
from tasks.group.parts import Parts
from tasks.group.poison_search import Origin
from tasks.group.positions import Positions
from tasks.group.read_size import MAX_BYTES, MAX_ENTRIES, USUAL_ENTRIES, ReadSize
from tasks.group.recovery import Recovery
from tasks.group.topic_reader import TopicReader
from tasks.group.until import Until
from tasks.reservoir.entry import Entry
from tasks.reservoir.fence import Fence
from tasks.reservoir.groups import is_gone, unless_gone
from tasks.reservoir.keys import derived_from, retry_topic, state_scope
from tasks.reservoir.retention import mark_seen
from tasks.reservoir.topic_names import check_topic

__all__ = ["Consumer"]

_NONE: Mapping[str, str] = {}


class Consumer:
    """A member of `group` on `topics`: at least once; each topic in id order, redelivered entries first.

    Several topics are merged by entry id: see `tasks.group.merging` for the order that this guarantees. Beside each topic,
    the consumer reads the group's retry topic, where replayed dead letters are. Their entries have the topic and id they
    were pushed under; `origin` is where they are acknowledged.

    One thread uses a consumer. Other threads may read `held`, `ends` and `is_through`.

    client      used by this consumer alone, because a blocking read occupies its connection. It must not retry commands:
                after a lost reply, the retry would return later entries (`connect(url, retries=0)`)
    start_from  where a new group begins; see `group_start`
    until       where a bounded replay ends; see `group_end`. No entry after that is returned, acknowledged or counted
                as delivered
    partition   the partition that the topics are; then only its owner may read, see `Ownership`, which each read of
                new entries checks
    max_entries, max_bytes   upper bounds per step; at least one entry per topic is returned even if it exceeds them
    usual_entries   upper bound unless the caller is done with each step's entries in less than 0.1 s
    max_decoded_bytes   upper bound for the memory of a step's entries; at least one entry is returned
    max_deliveries   after this many deliveries to consumers that died, an entry becomes a dead letter. Entries taken over
                from dead consumers are returned in ever smaller parts, in the end one by one, so that only the entry that
                killed them becomes a dead letter
    decoding    how the fields of entries become values
    """

    def __init__(
        self,
        client: redis.Redis,
        topics: str | Sequence[str],
        group: str,
        *,
        name: str | None = None,
        start_from: str = "beginning",
        until: str | None = None,
        partition: int | None = None,
        lease_ttl: float = 10.0,
        max_entries: int = MAX_ENTRIES,
        usual_entries: int = USUAL_ENTRIES,
        max_bytes: int = MAX_BYTES,
        max_decoded_bytes: int = DEFAULT_LIMITS.max_decoded_bytes // 4,
        max_deliveries: int = 5,
        decoding: Decoding = DEFAULT_DECODING,
    ) -> None:
        self.topics = [check_topic(t, derived=True) for t in ([topics] if isinstance(topics, str) else topics)]
        if not self.topics or len(set(self.topics)) != len(self.topics):
            msg = f"topics: expected one or more different topics, got {self.topics!r}"
            raise SettingsError(msg)
        self.group = check_group(group)
        self.partition = partition
        self.scope = state_scope(group, partition)
        """Names what one consumer of the group owns; see `Ownership`."""
        self.membership = Membership(client, group, name=name, lease_ttl=lease_ttl)
        self.is_through = False
        """Whether all entries up to `until` were returned, by any consumer of the group."""
        self.returned_poison_candidates = False
        """Whether one of the entries that the last step returned may be a poison message.

        Before the next step, finish them, or call `reset_deliveries` for those that are processed but still held."""
        self.client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._positions = Positions(client, self.membership, start_from=start_from)
        # A retry topic joins `topics` when it exists, which is after the first replay.
        self._retries = [retry_topic(topic, group) for topic in self.topics if not derived_from(topic)]
        self._held = HeldEntries(self.membership, [*self.topics, *self._retries])
        # Delivered by Redis and not returned yet. A recovery forgets these, and finds them again among the pending ones.
        self._merging = Merging(self.topics)
        self._parts = Parts(max_decoded_bytes, decoding)
        self._size = size = ReadSize(max_entries, max_bytes, usual_entries)
        self._returned_last = 0, 0.0
        self._reader = TopicReader(
            client,
            self.membership,
            self._merging,
            size,
            Until(client, self.membership, until) if until else None,
            is_fenced=partition is not None,
        )
        self._recovery = Recovery(
            client,
            self.membership,
            self._merging,
            self._held,
            size,
            max_deliveries=max_deliveries,
            expect=lambda origin: self.expect(origin),  # noqa: PLW0108 - the attribute is set later
        )
        self.skips_held = False
        """Whether entries that are held here already are not returned again if Redis, set back, delivers them anew.

        They are still at work, and now pending again. After a forced rewind, they are to be returned again."""
        self.expect: Callable[[Origin], object] = lambda _: None
        """Called with each entry that was pending before it is returned here: an earlier consumer may have worked on it."""
        self.before_restore: Callable[[], None] = lambda: None
        """Called before a deleted group is created again at its last position; what it raises, `step` raises instead."""
        self._may_have_lease = self._joined = False
        self._settled = False
        self._next_renewal = self._next_claim = 0.0

    @property
    def held(self) -> int:
        """The number of returned entries that are neither acknowledged nor dead-lettered."""
        return len(self._held)

    @property
    def is_searching_poison(self) -> bool:
        """Whether entries of dead consumers are still to be returned, of which one may be a poison message."""
        return self._recovery.is_searching_poison

    @property
    def ends(self) -> Mapping[str, str]:
        """The id of the last entry up to `until`, of each topic where it is known by now."""
        return self._reader.ends

    @property
    def last_read(self) -> Mapping[str, str]:
        """The id of the last entry that was returned of each topic, or where the group was when this consumer joined it."""
        return self._positions.last_read

    def describe_dead_letters(self, fields: Callable[[], Mapping[str, str]]) -> None:
        """Add to each dead letter the fields that `fields` returns, which describe the pipeline."""
        self._held.letter_fields = fields

    def holds(self, topic: str, id: str) -> bool:  # noqa: A002 - the field's own name
        """Return whether an entry was returned here and is neither acknowledged nor dead-lettered."""
        return id in self._held.ids(topic)

    def step(self, block_ms: int = 100, *, ahead: bool = False) -> list[Entry | Undecodable]:
        """Return the next entries, waiting up to `block_ms` for new ones; no entry is returned twice.

        Of each topic, entries that are pending here and were never returned (claimed from dead consumers, or lost with a
        reply) come before new ones. After an error of Redis call it again: it recovers the entries that the error may have lost.

        ahead     send the next read to Redis before returning, if there seem to be more entries
        raises    LeaseLostError: other consumers took this one for dead; it can do nothing more
                  redis.RedisError: Redis gave no answer, or refuses the command for now
        """
        try:
            return self._step(block_ms, ahead=ahead)
        except redis.RedisError as error:
            # The failed command may or may not have been executed, and earlier entries of this step were not returned.
            self._recovery.restart(self.topics)
            self._next_renewal = 0.0
            if not is_gone(error):
                raise
            self.before_restore()
            for topic in self.topics:
                if self._positions.restore(topic):
                    self._held.forget(topic)
            return []

    def known_up_to(self) -> int:
        """Return a time by Redis' clock, in ms since the epoch: all entries with older ids were returned.

        raises    redis.RedisError: ask again later
        """
        with self.client.pipeline(transaction=True) as pipe:
            pipe.time()
            for topic in self.topics:
                pipe.xrange(topic, f"({self.last_read.get(topic, '0-0')}", "+", count=1)
            (seconds, micros), *following = pipe.execute()
        return min(
            [1000 * seconds + micros // 1000, *(id_numbers(found[0][0].decode())[0] for found in following if found)]
        )

    def ack(self, topic: str, ids: Iterable[str], *, with_results: Collection[str] = ()) -> int:
        """Acknowledge entries; return how many were still pending. See `Membership.ack`."""
        return self.ack_all({topic: list(ids)}, with_results=with_results)

    def ack_all(self, done: Mapping[str, Sequence[str]], *, with_results: Collection[str] = ()) -> int:
        """Acknowledge entries of several topics, all or none; return how many were still pending. See `Membership.ack`."""
        return self._held.ack(done, with_results=with_results)

    def dead_letter(self, topic: str, id: str, **why: str) -> bool:  # noqa: A002 - the field's own name
        """Move an entry to the group's dead-letter topic, its fields untouched, with `why` as further fields.

        Appended and acknowledged, or neither. An entry that another client has acknowledged is appended all the same.
        Returns whether it was appended: False if an earlier call did so, whose reply was lost.
        """
        return self._held.dead_letter(topic, id, why)

    def dead_letter_part(
        self,
        topic: str,
        id: str,  # noqa: A002 - the field's own name
        part: Mapping[bytes, bytes],
        why: Mapping[str, str],
    ) -> None:
        """Append a part of an entry to the group's dead letters, before the entry is acknowledged.

        part   encoded fields; if the reply is lost and the call repeated, they may be appended twice
        """
        self._held.dead_letter_part(topic, id, part, why)

    def queue_dead_letters(self, pipe: Any, failed: Iterable[Queued], *, guard: Fence) -> None:
        """Put dead letters into a transaction; `settled` follows if it succeeds."""
        self._held.queue_dead_letters(pipe, failed, guard=guard)

    def queue_acks(
        self, pipe: Any, done: Mapping[str, Sequence[str]], *, guard: Fence, with_results: Collection[str] = ()
    ) -> None:
        """Put the acknowledgement of entries into a transaction; `settled` follows if it succeeds."""
        self._held.queue_acks(pipe, done, guard=guard, with_results=with_results)

    def settled(self, done: Mapping[str, Sequence[str]], failed: Iterable[Origin]) -> None:
        """Note that a transaction has acknowledged and dead-lettered entries."""
        self._held.settled(done, failed)

    def reset_deliveries(self, topic: str, ids: Iterable[str]) -> None:
        """Count entries as delivered once: they were processed, killed no consumer, and are only kept for later ones."""
        with unless_gone():
            self.membership.count(topic, dict.fromkeys(ids, 1))

    def explained(self, error: redis.ResponseError, more: Mapping[str, str] = _NONE) -> redis.ResponseError:
        """Return an error of a step or an acknowledgement with the key that caused it, and what to do.

        more    further keys that may have caused it, with their types
        """
        return self.membership.explained(error, [*self.topics, *self._retries], more)

    def leave(self) -> int:
        """Give back what is pending and leave the group; return the number of entries given back."""
        if not self._joined:
            if self._may_have_lease:  # or the state of the group would have an owner until the lease expires
                self.membership.release()
            return 0
        self._reader.close()  # first: the entries of a read that was sent ahead are given back, too
        self._recovery.restart(self.topics)
        given_back = sum([self._held.give_back(topic) for topic in self.topics])
        self.membership.release(given_back=given_back > 0)
        for topic in self.topics:
            with unless_gone():
                self.membership.retire(topic, self.membership.name)
        self._joined = False
        return given_back

    def fetch(self) -> None:
        """Receive the read that was sent ahead, if the next step may be long in coming: until then it occupies Redis' memory."""
        try:
            self._reader.fetch()
        except redis.RedisError:  # perhaps of this connection or read only; the next command will show
            self._recovery.restart(self.topics)

    def disconnect(self) -> None:
        """Close the consumer's own connection, without leaving the group."""
        self._reader.disconnect()

    def renew(self) -> None:
        """Renew the lease if it is due. Call this at least every third of the lease's TTL."""
        now = time.monotonic()
        if now < self._next_renewal:
            return
        self._may_have_lease = True
        if not self.membership.renew() and self._joined:  # after an outage for all: let other consumers return first
            self._next_claim = now + self.membership.lease_ttl
        self._next_renewal = now + self.membership.lease_ttl / 4

    def _step(self, block_ms: int, *, ahead: bool) -> list[Entry | Undecodable]:
        self.returned_poison_candidates = False
        self.renew()
        if not self._joined:
            self._join()
        if not self._settled:
            if self.membership.undecided(self.topics):
                time.sleep(min(block_ms, 50) / 1000)
                return []
            self._settled = True
        self.fetch()
        # Merge it before anything else, or a recovery would find its entries, too.
        if not self._reader.merge_fetched() and time.monotonic() >= self._next_claim:
            self._claim()
        while not (entries := self._next(ahead=ahead)):
            if not self._read_on(block_ms):
                break
        return entries

    def _join(self) -> None:
        for topic in self.topics:
            self._positions.join(topic)
        self._add_retry_topics()
        self._joined = True
        self._next_claim = 0.0
        self._recovery.restart(self.topics)

    def _add_retry_topics(self) -> None:
        """Read the retry topics that exist by now, too."""
        for stream in self._retries:
            if stream not in self.topics and self.client.exists(stream):
                self._positions.begin(stream)
                self.topics.append(stream)
                self._merging.add(stream)

    def _claim(self) -> None:
        """Take over the entries of dead consumers, and look for entries that are pending here unnoticed."""
        self._add_retry_topics()
        for topic in self.topics:
            self._recovery.claim(topic)
            self._positions.mention_if_ahead(topic)
            mark_seen(self.client, topic, self.group)
        self._next_claim = time.monotonic() + self.membership.lease_ttl / 2

    def _read_on(self, block_ms: int) -> bool:
        """Read the topics without which no entry can be returned; return whether to look for entries again."""
        topics = self._merging.wanted()
        if recovering := [topic for topic in topics if topic in self._recovery]:
            for topic in recovering:
                self._recovery.step(topic, end=self._reader.end(topic))
            return True
        if topics:
            time.sleep(self._merging.pause())
            self._reader.read(topics, block_ms)
        self.is_through = not self._merging and not self._merging.wanted()
        return bool(self._merging)

    def _next(self, *, ahead: bool) -> list[Entry | Undecodable]:
        """Return the next merged entries; with `ahead`, send the following read first if there seem to be more."""
        counts = self._parts.first(self._merging, self._merging.ready())
        if self._recovery.is_searching_poison:
            taken, self.returned_poison_candidates = self._recovery.take_together(counts)
            return self._returned(taken)
        number, then = self._returned_last
        self._size.adapt(number, (now := time.monotonic()) - then)
        self._returned_last = sum(counts.values()), now
        taken = self._merging.take(counts)
        # Recovery and claims wait until no read is under way, which would never be the case while there is a backlog.
        is_due = self._recovery or now >= self._next_claim
        if taken and ahead and not is_due:
            self._reader.send_ahead()
        return self._returned(taken)

    def _returned(self, taken: Mapping[str, list[Raw]]) -> list[Entry | Undecodable]:
        """Decode entries and hold them; return them in the merged order."""
        entries: list[Entry | Undecodable] = []
        for topic, raws in taken.items():
            if self.skips_held and not self._held.ids(topic).isdisjoint([id_ for id_, _, _ in raws]):
                raws = [raw for raw in raws if raw[0] not in self._held.ids(topic)]  # noqa: PLW2901
            if raws:
                self._held.add(topic, [id_ for id_, _, _ in raws])
                entries += delivered(topic, raws, self.group, deliveries=self._recovery.deliveries, parts=self._parts)
                self._positions.read_up_to(topic, raws[-1][0])
        return entries if len(taken) < 2 else self._merging.sorted(entries)  # noqa: PLR2004 - nothing to merge
