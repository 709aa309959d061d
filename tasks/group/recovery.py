"""Recovery of entries that are pending in a group and that no living consumer works on."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import redis

from tasks.base.logs import get_logger
from tasks.group.held_entries import HeldEntries
from tasks.group.membership import HANDED_BACK, Membership
from tasks.group.merging import Merging, Raw
from tasks.group.pending_pages import PendingPages
from tasks.group.poison_search import Origin, PoisonSearch
from tasks.group.read_size import ReadSize

__all__ = ["Recovery"]

logger = get_logger(__name__)


class Recovery:
    """Merges entries that were delivered but never returned here: taken over from dead consumers, given back, or lost with a reply.

    `topic in recovery` while pending entries of that topic are not merged; True while any are not.

    merging    receives the entries
    held       the entries that the consumer has returned, which are skipped
    expect     called with each entry that it merges
    """

    def __init__(
        self,
        client: redis.Redis,
        membership: Membership,
        merging: Merging,
        held: HeldEntries,
        size: ReadSize,
        *,
        max_deliveries: int,
        expect: Callable[[Origin], object] = lambda _: None,
    ) -> None:
        self._membership = membership
        self._merging = merging
        self._held = held
        self._size = size
        self._expect = expect
        self._pages = PendingPages(client, membership.group, membership.name)
        self._search = PoisonSearch(max_deliveries=max_deliveries)
        self.deliveries: dict[Origin, int] = {}
        """How often merged entries were delivered, where that is not once."""

    def __contains__(self, topic: str) -> bool:
        return topic in self._pages

    def __bool__(self) -> bool:
        return bool(self._pages)

    @property
    def is_searching_poison(self) -> bool:
        """Whether entries of dead consumers are still to be returned, of which one may be a poison message."""
        return bool(self._search)

    def restart(self, topics: Iterable[str]) -> None:
        """Forget what was merged of these topics, and go through all their pending entries again."""
        topics = list(topics)
        self._pages.restart(topics)
        for topic in topics:
            self._merging.forget(topic)
        self.deliveries = {origin: times for origin, times in self.deliveries.items() if origin[0] not in topics}

    def claim(self, topic: str) -> None:
        """Take over what dead consumers have pending on a topic, and remove those that have nothing."""
        peers, own = self._membership.peers(topic)
        # A read that was given up may still reach Redis at any later time.
        is_lost = own > len(self._held.ids(topic)) + len(self._merging.ids(topic))
        for peer in peers:
            if peer.lease_ms:
                continue
            if peer.pending and (moved := self._membership.claim(topic, peer.name)):
                is_lost = True
                if peer.name != HANDED_BACK:
                    self._search.add(topic, moved)
                logger.info(
                    "topic %r: %d entries taken over from %s", topic, len(moved),
                    "a consumer that stopped" if peer.name == HANDED_BACK else f"dead consumer {peer.name!r}",
                )  # fmt: skip
            self._membership.retire(topic, peer.name)
        if is_lost:
            self.restart([topic])

    def step(self, topic: str, *, end: str) -> None:
        """Merge the next pending entries of a topic, up to the id `end`; acknowledge those that were trimmed."""
        most = max(1, self._size.entries - len(self._merging))
        page = self._pages.next(topic, end=end, held=self._held.ids(topic), most=most)
        self.deliveries.update(page.deliveries)
        for id_, *_ in page.entries:
            self._expect((topic, id_.decode()))
        self._merging.put(topic, self._size.weigh(page.entries), is_cut=True)
        if page.trimmed:
            logger.warning(
                "topic %r: %d entries were trimmed while pending; acknowledged unprocessed", topic, len(page.trimmed)
            )
            self._held.ack({topic: page.trimmed})
            self._search.remove([(topic, id_) for id_ in page.trimmed])
        if topic not in self._pages:  # other candidates are no longer pending
            self._search.keep_only(topic, set(self._merging.ids(topic)))

    def take_together(self, counts: Mapping[str, int]) -> tuple[Mapping[str, list[Raw]], bool]:
        """Take the first merged entries that may be in flight together; return whether one may be a poison message.

        Entries that were delivered too often become dead letters.

        counts   how many merged entries of each topic are ready
        """
        chosen = self._search.first(self._merging.in_order(counts), self.deliveries)
        candidates = self._search.deliveries(chosen)
        poison = {origin: times for origin, times in candidates.items() if times >= self._search.max_deliveries}
        self._dead_letter(poison)
        counted = {origin: times + 1 for origin, times in candidates.items() if origin not in poison}
        for topic in dict.fromkeys(topic for topic, _ in counted):
            self._membership.count(topic, {id_: times for (of, id_), times in counted.items() if of == topic})
        # Only now: after an outage on the way, they are candidates as before.
        self._search.remove(chosen)
        self.deliveries.update(counted)
        for origin in poison:
            self.deliveries.pop(origin, None)
        taken = self._merging.take(Counter(topic for topic, _ in chosen))
        left = {topic: [raw for raw in raws if (topic, raw[0]) not in poison] for topic, raws in taken.items()}
        return left, bool(counted)

    def _dead_letter(self, poison: Mapping[Origin, int]) -> None:
        for (topic, id_), times in poison.items():
            why = f"delivered {times} times, each time to a consumer that died before it acknowledged the entry"
            self._held.dead_letter(topic, id_, {"node": "delivery", "exception": why})
            logger.warning("topic %r entry %s: %s; moved to the dead letters", topic, id_, why)
