"""The entries that a consumer was delivered and has not settled, and the ways in which it settles them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import redis

from tasks.group.dead_letter_limits import MAX_EXCEPTION, MAX_TRACEBACK, DeadLetterLimits, cut
from tasks.group.membership import Membership
from tasks.reservoir.fence import Fence
from tasks.reservoir.groups import unless_gone

__all__ = ["HeldEntries", "Queued"]

KEEP_DEAD_LETTERS = DeadLetterLimits()

Queued = tuple[str, str, Mapping[str, str], Mapping[bytes, bytes] | None]
"""A dead letter: topic, id and reason, and the encoded fields of a part of the entry; None: of the whole entry."""


class HeldEntries:
    """Entries that a consumer has returned and that are neither acknowledged, dead-lettered nor given back, by topic.

    Every acknowledgement of the consumer goes through this class.
    """

    def __init__(self, membership: Membership, topics: Iterable[str]) -> None:
        self._membership = membership
        self._held: dict[str, set[str]] = {topic: set() for topic in topics}
        self._unanswered: set[tuple[str, str]] = set()
        """Entries that may be dead letters already: Redis' reply was lost."""
        self.letter_fields: Callable[[], Mapping[str, str]] = dict
        """Returns further fields for each dead letter, which describe the pipeline."""

    def __len__(self) -> int:
        """Return the number of entries of all topics."""
        return sum(map(len, self._held.values()))

    def ids(self, topic: str) -> set[str]:
        """Return the ids of a topic's entries."""
        return self._held[topic]

    def add(self, topic: str, ids: Iterable[str]) -> None:
        """Hold entries, because the consumer returns them."""
        self._held[topic].update(ids)

    def forget(self, topic: str) -> None:
        """Forget a topic's entries: its group was deleted, so that nothing is pending."""
        self._held[topic].clear()

    def ack(self, done: Mapping[str, Sequence[str]], *, with_results: Collection[str] = ()) -> int:
        """Acknowledge entries, all or none; return how many were still pending. See `Membership.ack`."""
        acknowledged = self._membership.ack(done, with_results=with_results)
        for topic, ids in done.items():
            self._held[topic].difference_update(ids)
        return acknowledged

    def dead_letter(self, topic: str, id_: str, why: Mapping[str, str]) -> bool:
        """Append an entry to the dead letters and acknowledge it, both or neither; return whether it was appended.

        An entry that another client has acknowledged is appended all the same. It is not appended twice if the reply to an
        earlier call was lost.
        """
        fields = self._described(why)
        is_again = (topic, id_) in self._unanswered
        try:
            moved = self._membership.dead_letter(topic, id_, fields, keep=KEEP_DEAD_LETTERS, only_pending=is_again)
        except (redis.ConnectionError, redis.TimeoutError):
            self._unanswered.add((topic, id_))
            raise
        self._unanswered.discard((topic, id_))
        self._held[topic].discard(id_)
        return moved

    def dead_letter_part(self, topic: str, id_: str, part: Mapping[bytes, bytes], why: Mapping[str, str]) -> None:
        """Append a part of an entry, with encoded fields of its own, to the dead letters; the entry stays as it is."""
        self._membership.dead_letter(topic, id_, self._described(why), keep=KEEP_DEAD_LETTERS, part=part)

    def queue_dead_letters(self, pipe: Any, failed: Iterable[Queued], *, guard: Fence) -> None:
        """Put dead letters into a transaction.

        guard    a letter is appended only if it holds its token; if a letter is refused, it holds something else afterwards
        """
        for topic, id_, why, part in failed:
            fields = self._described(why)
            self._membership.queue_dead_letter(pipe, topic, id_, fields, keep=KEEP_DEAD_LETTERS, guard=guard, part=part)

    def queue_acks(
        self, pipe: Any, done: Mapping[str, Sequence[str]], *, guard: Fence, with_results: Collection[str] = ()
    ) -> None:
        """Put the acknowledgement of entries into a transaction, to be done if `guard` holds its token."""
        self._membership.queue_ack(pipe, done, guard=guard, with_results=with_results)

    def settled(self, done: Mapping[str, Sequence[str]], failed: Iterable[tuple[str, str]]) -> None:
        """Note that entries were acknowledged and dead-lettered in a transaction."""
        for topic, ids in done.items():
            self._held[topic].difference_update(ids)
        for topic, id_ in failed:
            self._held[topic].discard(id_)

    def _described(self, why: Mapping[str, str]) -> dict[str, str]:
        """Return the fields that a dead letter has behind those of its entry."""
        group = self._membership.group
        about = {"group": group, "time": datetime.now(UTC).isoformat(), **self.letter_fields(), **why}
        longest = {"traceback": MAX_TRACEBACK}
        return {f"dead:{name}": cut(text, longest.get(name, MAX_EXCEPTION)) for name, text in about.items()}

    def give_back(self, topic: str) -> int:
        """Give back all that is pending here of a topic, so that any consumer can claim it; return the number of entries."""
        given_back = 0
        with unless_gone():
            given_back = len(self._membership.hand_back(topic))
        self._held[topic].clear()
        return given_back
