"""A cut: everything that the entries of some time have changed, stored in one transaction or not at all."""

import itertools
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from tasks.group.held_entries import Queued
from tasks.pipeline.part_letters import PartLetter
from tasks.pipeline.receipts import Receipt
from tasks.reservoir.keep import Keep

__all__ = ["Change", "Cut", "Origin", "Outbox", "Result", "Stored"]

Origin = tuple[str, str]
"""The topic and the id that an entry was read under."""

Stored = Mapping[str, tuple[str, Mapping[bytes, bytes]]]
"""The stored state of each node by its name: the fingerprint of the node, and its fields."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one node's state has become since the last cut.

    fingerprint   type and parameters of the node; state of another node is never loaded
    stored        encoded values by the name of their field
    removed       names of fields that are gone
    fields, size   the number and the bytes of all fields of the node, including unchanged ones
    """

    node: str
    fingerprint: str
    stored: Mapping[bytes, bytes]
    removed: Sequence[bytes]
    fields: int
    size: int


@dataclass(frozen=True, slots=True)
class Result:
    """An encoded entry to append to a topic."""

    topic: str
    fields: Mapping[bytes, bytes]
    keep: Keep | None


@dataclass(slots=True)
class Outbox:
    """Results that wait for the cut which stores the state that they were made with. The graph's thread.

    size   in bytes
    """

    results: list[Result] = field(default_factory=list)
    size: int = 0

    def add(self, topic: str, fields: Mapping[bytes, bytes], keep: Keep | None) -> None:
        """Add a result."""
        self.results.append(Result(topic, fields, keep))
        self.size += sum(len(name) + len(data) for name, data in fields.items())

    def take(self) -> list[Result]:
        """Take all results."""
        results, self.results, self.size = self.results, [], 0
        return results


@dataclass(slots=True)
class Cut:
    """The state of a graph between two elements, and the entries that it covers.

    id        names the transaction: sent again after a lost reply, it changes nothing
    done      entries to acknowledge: finished ones, and those that nodes keep, whose elements are part of the state
    failed    receipts of entries to dead-letter
    parts     dead letters of parts of elements, whose other parts are in the state
    results   to append, in order
    changes   of the nodes whose state is another one than at the last cut
    recorded  the ids of entries that have a record, which is not needed after the acknowledgement
    """

    done: list[Origin]
    failed: list[Receipt]
    results: list[Result]
    changes: list[Change]
    recorded: Collection[str] = ()
    parts: list[PartLetter] = field(default_factory=list)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __bool__(self) -> bool:
        """Return whether there is anything to store."""
        return bool(self.done or self.failed or self.results or self.changes or self.parts)

    def done_by_topic(self) -> Mapping[str, list[str]]:
        """Return the ids of the entries to acknowledge, by topic."""
        by_topic: defaultdict[str, list[str]] = defaultdict(list)
        for topic, found in itertools.groupby(self.done, key=itemgetter(0)):
            by_topic[topic] += map(itemgetter(1), found)
        return by_topic

    def letters(self) -> Iterator[Queued]:
        """Yield all dead letters: those of parts before those of entries, which end the work on an entry."""
        for part in self.parts:
            yield part.topic, part.id, part.failure.described(), part.fields
        for receipt in self.failed:
            assert receipt.failure is not None  # or it would not be among these
            yield receipt.topic, receipt.id, receipt.failure.described(), None
