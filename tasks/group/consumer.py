"""One member of a consumer group: reads, recovers, acknowledges. A step at a time, in one thread."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import redis

from tasks.base.logs import get_logger
from tasks.checks import check_group, check_topic
from tasks.codec.decoding import DEFAULT_DECODING, Decoding
from tasks.codec.limits import DEFAULT_LIMITS
from tasks.errors import SettingsError
from tasks.group.dead_letter_bounds import MAX_EXCEPTION, MAX_TRACEBACK, LetterBounds, cut
from tasks.group.delivery import Poison, delivered
from tasks.group.membership import HANDED_BACK, Membership
from tasks.group.merging import Merging, Raw
from tasks.group.parts import Parts
from tasks.group.poison_search import Suspects
from tasks.group.positions import Positions
from tasks.group.read_ahead import Read, ReadAhead
from tasks.group.read_size import ReadSize
from tasks.group.recovery import Recovery
from tasks.group.until import Bound
from tasks.reservoir.entry import Entry
from tasks.reservoir.groups import is_gone, unless_gone
from tasks.reservoir.keys import retry_topic
from tasks.reservoir.retention import mark_seen

__all__ = ["Consumer"]

logger = get_logger(__name__)
KEEP_DEAD_LETTERS = LetterBounds()


class Consumer:
    """A member of `group` on `topics`: at least once; each topic in id order, redelivered entries first.

    Topics that all hold entries are merged by entry id: see `tasks.group.merging` for what that promises.

    It also reads each topic's retry topic, of replayed dead letters; methods here name such an entry by its `origin`.

    client      of its own: a blocking read holds its connection, and it must repeat no command by itself,
                or a read whose reply was lost would go on with later entries (`connect(url, retries=0)`)
    start_from  where a group that does not exist yet begins; see `group_start`
    until       where a bounded replay ends; see `group_end`. Nothing behind it is returned, acknowledged or counted
                as delivered
    max_entries, max_bytes, max_decoded_bytes   upper bounds per step; one entry is returned even if it exceeds them
    max_deliveries   how often an entry is delivered to consumers that die with it, before it is a dead letter. Entries of
                dead consumers are returned in ever smaller parts, so that only the one that kills becomes a dead letter
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
        lease_ttl: float = 10.0,
        max_entries: int = 256,
        max_bytes: int = 32 * 2**20,
        max_decoded_bytes: int = DEFAULT_LIMITS.max_decoded_bytes // 4,
        max_deliveries: int = 5,
        decoding: Decoding = DEFAULT_DECODING,
    ) -> None:
        self.topics = [check_topic(t, derived=True) for t in ([topics] if isinstance(topics, str) else topics)]
        if not self.topics or len(set(self.topics)) != len(self.topics):
            msg = f"topics: expected one or more different topics, got {self.topics!r}"
            raise SettingsError(msg)
        self.group = check_group(group)
        self.membership = Membership(client, group, name=name, lease_ttl=lease_ttl)
        self.max_deliveries = max_deliveries
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._positions = Positions(client, self.membership, start_from=start_from)
        self._bound = Bound(client, group, until) if until else None
        self.is_through = False
        """Whether everything up to `until` was returned, to whichever consumer of the group."""
        # Retry topics are there once something was replayed; then they are among `topics`.
        self._retries = [retry_topic(topic, group) for topic in self.topics if ":" not in topic]
        streams = [*self.topics, *self._retries]
        self.about_letters: Callable[[], Mapping[str, str]] = dict
        """Returns further fields of each dead letter, about the pipeline, which the consumer does not know."""
        # Delivered by this consumer and neither acknowledged nor dead-lettered yet.
        self._held: dict[str, set[str]] = {stream: set() for stream in streams}
        # Delivered by Redis and not returned yet. A recovery forgets them, and finds them again among what is pending.
        self._merging = Merging(self.topics)
        # How often those that were recovered count as delivered.
        self._deliveries: dict[tuple[str, str], int] = {}
        self._recovery = Recovery(client, group, self.membership.name)
        self._reads = ReadAhead(client, group, self.membership.name)
        self._suspects = Suspects(max_deliveries=max_deliveries)
        self.is_careful = False
        """Whether the last step returned suspects: be done with them, or `absolve` them, before the next step."""
        self._size = ReadSize(max_entries, max_bytes)
        self._unanswered: set[tuple[str, str]] = set()
        """Entries of which it is not known whether they were moved to the dead letters: the reply was lost."""
        self._parts = Parts(max_decoded_bytes, decoding)
        self._joined = False
        self._settled = False
        self._next_renewal = self._next_claim = 0.0

    @property
    def held(self) -> int:
        """How many delivered entries are neither acknowledged nor dead-lettered."""
        return sum(map(len, self._held.values()))

    @property
    def has_suspects(self) -> bool:
        """Whether a dead consumer's entries are still to come, of which one may be what it died of."""
        return bool(self._suspects)

    @property
    def ends(self) -> dict[str, str]:
        """Where `until` is: the id of the last entry, of each topic where it is known yet."""
        return self._bound.ends if self._bound else {}

    def holds(self, topic: str, id: str) -> bool:  # noqa: A002 - the field's own name
        """Return whether an entry was returned here and is neither acknowledged nor dead-lettered."""
        return id in self._held[topic]

    def step(self, block_ms: int = 100, *, ahead: bool = False) -> list[Entry | Poison]:
        """Return the next entries, waiting up to `block_ms` for new ones; none is returned twice.

        Of each topic first what is pending here and was never returned (claimed from the dead, or lost with a reply),
        then what is new. After an error of Redis' call it again: it looks to what may have been lost.

        ahead     have Redis read on meanwhile if there seems to be more: what the next step returns is delivered by then
        raises    LeaseLostError: taken for dead; this consumer can do nothing more
                  redis.RedisError: no answer, or none but that it cannot be done now
        """
        try:
            return self._step(block_ms, ahead=ahead)
        except redis.RedisError as error:
            # Whatever was under way may or may not have happened, and what came before it is not known to the caller.
            self._recover_all()
            self._next_renewal = 0.0
            if not is_gone(error):
                raise
            for topic in self.topics:
                if self._positions.restore(topic):
                    self._held[topic].clear()
            return []

    def ack(self, topic: str, ids: Iterable[str], *, with_results: Collection[str] = ()) -> int:
        """Acknowledge entries that are done; return how many were still pending. As `Membership.ack`."""
        return self.ack_all({topic: list(ids)}, with_results=with_results)

    def ack_all(self, done: Mapping[str, Sequence[str]], *, with_results: Collection[str] = ()) -> int:
        """Acknowledge entries of several topics that are done, all or none. As `Membership.ack`."""
        acknowledged = self.membership.ack(done, with_results=with_results)
        for topic, ids in done.items():
            self._held[topic].difference_update(ids)
        return acknowledged

    def dead_letter(self, topic: str, id: str, **why: str) -> bool:  # noqa: A002 - the field's own name
        """Move an entry to the group's dead-letter topic: its fields untouched, and `why` in further ones.

        Appended and acknowledged, or neither. Whether or not it is still pending: another client may have acknowledged it.
        Returns whether it was appended, which it is not if an earlier call, whose reply was lost, has done so.
        """
        about = {"group": self.group, "time": datetime.now(UTC).isoformat(), **self.about_letters(), **why}
        longest = {"traceback": MAX_TRACEBACK}
        fields = {f"dead:{name}": cut(text, longest.get(name, MAX_EXCEPTION)) for name, text in about.items()}
        is_again = (topic, id) in self._unanswered
        try:
            moved = self.membership.dead_letter(topic, id, fields, keep=KEEP_DEAD_LETTERS, only_pending=is_again)
        except (redis.ConnectionError, redis.TimeoutError):
            self._unanswered.add((topic, id))
            raise
        self._unanswered.discard((topic, id))
        self._held[topic].discard(id)
        return moved

    def absolve(self, topic: str, ids: Iterable[str]) -> None:
        """Count entries' deliveries from one again: they were processed, are held for others, and killed nobody."""
        with unless_gone():
            self.membership.count(topic, dict.fromkeys(ids, 1))

    def explained(self, error: redis.ResponseError) -> redis.ResponseError:
        """Return an error of a step or an acknowledgement with the key that it is about, and what to do."""
        return self.membership.explained(error, self._held)

    def leave(self) -> int:
        """Give back what is pending and leave the group; return how many entries were given back."""
        if not self._joined:
            return 0
        self._reads.close()  # first: what is under way is given back, too
        self._recover_all()
        given_back = 0
        for topic in self.topics:
            with unless_gone():
                given_back += len(self.membership.hand_back(topic))
            self._held[topic].clear()
        self.membership.release(given_back=given_back > 0)
        for topic in self.topics:
            with unless_gone():
                self.membership.retire(topic, self.membership.name)
        self._joined = False
        return given_back

    def fetch(self) -> None:
        """Have what was read ahead here, whenever the next step may be: until then Redis keeps it in its memory."""
        try:
            self._reads.fetch()
        except redis.RedisError:  # it may be of this one connection or read; what is done next will show
            self._recover_all()

    def hang_up(self) -> None:
        """Let go of what this consumer has for itself; the end of one that may not leave."""
        self._reads.hang_up()

    def renew(self) -> None:
        """Hold the lease on, if it is time to. Call it at least every third of the lease's TTL."""
        now = time.monotonic()
        if now < self._next_renewal:
            return
        if not self.membership.renew() and self._joined:  # after an outage of all: let the others come back first
            self._next_claim = now + self.membership.lease_ttl
        self._next_renewal = now + self.membership.lease_ttl / 4

    def _step(self, block_ms: int, *, ahead: bool) -> list[Entry | Poison]:
        self.is_careful = False
        self.renew()
        if not self._joined:
            self._join()
        if not self._settled:
            if self.membership.undecided(self.topics):
                time.sleep(min(block_ms, 50) / 1000)
                return []
            self._settled = True
        self.fetch()
        has_come = False
        if read := self._reads.take():  # first, or a recovery would find what came with it, too
            self._take_in(read)
            has_come = bool(read.entries)
            del read  # or the garbage collector goes through it, again and again: a third of all that a step takes
        if not has_come and time.monotonic() >= self._next_claim:
            self._claim()
        while not (entries := self._next(ahead=ahead)):
            if not self._read_on(block_ms):
                break
        return entries

    def _join(self) -> None:
        for topic in self.topics:
            self._positions.join(topic)
        self._find_retries()
        self._joined = True
        self._next_claim = 0.0
        self._recover_all()

    def _find_retries(self) -> None:
        """Read the retry topics that are there by now, too."""
        for stream in self._retries:
            if stream not in self.topics and self._client.exists(stream):
                self._positions.begin(stream)
                self.topics.append(stream)
                self._merging.add(stream)

    def _claim(self) -> None:
        """Find what the dead left, or came here unnoticed, and clear away consumers that are dead and have nothing."""
        self._find_retries()
        for topic in self.topics:
            peers, own = self.membership.peers(topic)
            # A read that was given up may reach Redis at any time later.
            is_lost = own > len(self._held[topic]) + len(self._merging.ids(topic))
            for peer in peers:
                if peer.lease_ms:
                    continue
                if peer.pending and (moved := self.membership.claim(topic, peer.name)):
                    is_lost = True
                    if peer.name != HANDED_BACK:
                        self._suspects.add(topic, moved)
                    logger.info(
                        "topic %r: %d entries taken over from %s", topic, len(moved),
                        "a consumer that stopped" if peer.name == HANDED_BACK else f"dead consumer {peer.name!r}",
                    )  # fmt: skip
                self.membership.retire(topic, peer.name)
            if is_lost:
                self._recover(topic)
            self._positions.mention_if_ahead(topic)
            mark_seen(self._client, topic, self.group)
        self._next_claim = time.monotonic() + self.membership.lease_ttl / 2

    def _recover_all(self) -> None:
        """Look through all that is pending here, before anything new is returned."""
        self._recover(*self.topics)

    def _recover(self, *topics: str) -> None:
        self._recovery.begin(topics)
        for topic in topics:
            self._merging.forget(topic)
        self._deliveries = {origin: times for origin, times in self._deliveries.items() if origin[0] not in topics}

    def _read_on(self, block_ms: int) -> bool:
        """Read on where something is missing to return the next entries; return whether to look for them again."""
        topics = self._merging.wanted()
        if recovering := [topic for topic in topics if topic in self._recovery]:
            for topic in recovering:
                self._look_through(topic)
            return True
        if topics:
            time.sleep(self._merging.pause())
            self._read(topics, block_ms)
        self.is_through = not self._merging and not self._merging.wanted()
        return bool(self._merging)

    def _read(self, topics: list[str], block_ms: int) -> None:
        count = self._size.of_each(len(topics), besides=len(self._merging))
        if not self._bound:
            block_ms = 0 if self._merging else block_ms
            self._take_in(self._reads.read(topics, count, block_ms, timed=self._merging.is_timed))
            return
        for topic in topics:
            read = self._bound.read(topic, self.membership.name, count)
            self._take_in(read)
            if not read.entries and self._bound.is_reached(topic):
                self._merging.end(topic)

    def _take_in(self, read: Read) -> None:
        """Take in what a read brought, and that it brought nothing of the other topics it was of."""
        self._merging.clock(read.micros)
        come = {name.decode(): raws for name, raws in read.entries}
        for topic in read.topics:
            raws = come.get(topic, ())
            is_full = len(raws) >= read.count
            self._merging.put(topic, self._size.weigh(raws), is_cut=is_full, is_full=is_full)

    def _look_through(self, topic: str) -> None:
        """Take in some of a topic's own pending entries that were never returned."""
        end = self._bound.end(topic) if self._bound else "+"
        most = max(1, self._size.entries - len(self._merging))
        page = self._recovery.page(topic, end=end, held=self._held[topic], most=most)
        self._deliveries.update(page.deliveries)
        self._merging.put(topic, self._size.weigh(page.entries), is_cut=True)
        if page.gone:
            logger.warning(
                "topic %r: %d entries were trimmed while pending; acknowledged unseen", topic, len(page.gone)
            )
            self.membership.ack({topic: page.gone})
            self._suspects.clear([(topic, id_) for id_ in page.gone])
        if topic not in self._recovery:  # what else was suspected is pending no more
            self._suspects.keep_only(topic, set(self._merging.ids(topic)))

    def _next(self, *, ahead: bool) -> list[Entry | Poison]:
        """Return the next entries, of those that have come; send for the ones that follow, `ahead`, if there seem to be more."""
        counts = self._parts.first(self._merging, self._merging.ready())
        if self._suspects:
            return self._next_together(counts)
        come = self._merging.take(counts)
        # What is pending here, and the dead, are looked for when nothing is under way, which in a backlog would be never.
        is_due = self._recovery or time.monotonic() >= self._next_claim
        wants_more = self._merging.has_more and self._merging.wanted()  # not while a part of what came is left
        if come and ahead and not self._bound and not is_due and wants_more:
            count = self._size.of_each(len(wants_more), besides=len(self._merging))
            self._reads.send(wants_more, count, timed=self._merging.is_timed)
        return self._returned(come)

    def _next_together(self, counts: Mapping[str, int]) -> list[Entry | Poison]:
        """Return the next entries that may be in flight together, some of those that have come being suspects."""
        chosen = self._suspects.first(self._merging.in_order(counts), self._deliveries)
        suspects = self._suspects.deliveries(chosen)
        deadly = {origin: times for origin, times in suspects.items() if times >= self.max_deliveries}
        self._put_away(deadly)
        counted = {origin: times + 1 for origin, times in suspects.items() if origin not in deadly}
        for topic in dict.fromkeys(topic for topic, _ in counted):
            self.membership.count(topic, {id_: times for (of, id_), times in counted.items() if of == topic})
        # Only now: an outage on the way, and they still are.
        self._suspects.clear(chosen)
        self._deliveries.update(counted)
        for origin in deadly:
            self._deliveries.pop(origin, None)
        self.is_careful = bool(counted)
        come = self._merging.take(Counter(topic for topic, _ in chosen))
        return self._returned(
            {topic: [raw for raw in raws if (topic, raw[0]) not in deadly] for topic, raws in come.items()}
        )

    def _put_away(self, deadly: Mapping[tuple[str, str], int]) -> None:
        """Make dead letters of what was delivered too often."""
        for (topic, id_), times in deadly.items():
            why = f"delivered {times} times, each time to a consumer that died before it was done with it"
            self.dead_letter(topic, id_, node="delivery", exception=why)
            logger.warning("topic %r entry %s: %s; moved to the dead letters", topic, id_, why)

    def _returned(self, come: Mapping[str, list[Raw]]) -> list[Entry | Poison]:
        """Return entries, merged, that are held from now on."""
        entries: list[Entry | Poison] = []
        for topic, raws in come.items():
            if raws:
                self._held[topic].update([id_ for id_, _, _ in raws])
                entries += delivered(topic, raws, self.group, deliveries=self._deliveries, parts=self._parts)
                self._positions.read_up_to(topic, raws[-1][0])
        return entries if len(come) < 2 else self._merging.sorted(entries)  # noqa: PLR2004 - nothing to merge
