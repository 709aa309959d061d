"""Entries: the decoded elements that a pipeline receives."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from tasks.base.ids import id_time

__all__ = [
    "NODE_FIELD",
    "TIME_FIELD",
    "Entry",
    "NodeInput",
    "Part",
    "has",
    "made",
    "take_out_node",
    "take_out_time",
    "with_time",
]

TIME_FIELD = b"event:time"
"""The last field of an entry that has an event time of its own: milliseconds since the epoch, as decimal digits."""

NODE_FIELD = b"node:input"
"""The last field, before the event time, of a dead letter that has a part of an element: the node that refused it, and its side."""

_MOST_DIGITS = 15


class Entry(dict[str, Any]):
    """One entry: a dict of its decoded fields, with its topic and id.

    topic       the topic to which it was pushed
    id          its entry id, '<milliseconds>-<sequence>', assigned by Redis
    deliveries  number of deliveries; 1 for the first
    origin      the topic and id under which it was read; they differ from its own for a replayed dead letter
    time_ms     its event time, in milliseconds since the epoch: of an inlet's entry the time of its tick, of a result that of
                the newest entry it was made of, of any other entry the time at which Redis assigned the id
    """

    __slots__ = ("_time_ms", "deliveries", "id", "origin", "topic")

    def __init__(
        self,
        fields: Mapping[str, Any],
        *,
        topic: str,
        id: str,  # noqa: A002 - the field's own name
        deliveries: int = 1,
        origin: tuple[str, str] | None = None,
        time_ms: int | None = None,
    ) -> None:
        super().__init__(fields)
        self.topic = topic
        self.id = id
        self.deliveries = deliveries
        self.origin = origin or (topic, id)
        self._time_ms = time_ms

    @property
    def time_ms(self) -> int:
        """The event time, in milliseconds since the epoch."""
        return int(self.id.partition("-")[0]) if self._time_ms is None else self._time_ms

    @property
    def own_time_ms(self) -> int | None:
        """The event time that the entry was pushed with, in milliseconds since the epoch, if any."""
        return self._time_ms

    @property
    def time(self) -> datetime:
        """The event time, to the millisecond, in UTC."""
        return id_time(self.id if self._time_ms is None else f"{self._time_ms}-0")

    def __repr__(self) -> str:
        return f"Entry({self.topic!r}, {self.id!r}, fields={list(self)!r}, deliveries={self.deliveries})"


class NodeInput(Entry):
    """A replayed dead letter with a part of an element that a node has refused: it is given to this node instead of the source.

    node   its name
    side   the number of the upstream that the element came from
    """

    __slots__ = ("node", "side")

    def __init__(self, entry: Entry, node: str, side: int) -> None:
        super().__init__(
            entry,
            topic=entry.topic,
            id=entry.id,
            deliveries=entry.deliveries,
            origin=entry.origin,
            time_ms=entry.own_time_ms,
        )
        self.node, self.side = node, side


def made(topic: str, id: str, deliveries: int, time_ms: int | None = None) -> Entry:  # noqa: A002 - the field's own name
    """Return an entry without fields, for the caller to fill; takes half the time of `Entry`, which copies the fields."""
    entry = Entry.__new__(Entry)
    entry.topic = topic
    entry.id = id
    entry.deliveries = deliveries
    entry.origin = (topic, id)
    entry._time_ms = time_ms
    return entry


class Part(dict[bytes, bytes]):
    """The encoded fields of an entry, or of a part of it, for one partition of a topic."""

    __slots__ = ("partition",)

    def __init__(self, encoded: Mapping[bytes, bytes], partition: int) -> None:
        super().__init__(encoded)
        self.partition = partition


def with_time(encoded: Mapping[bytes, bytes], time_ms: int | None) -> dict[bytes, bytes]:
    """Return the encoded fields of an entry with an event time; unchanged without one, or if they have one."""
    timed = Part(encoded, encoded.partition) if isinstance(encoded, Part) else dict(encoded)
    if time_ms is not None:
        timed.setdefault(TIME_FIELD, b"%d" % time_ms)
    return timed


def take_out_time(flat: list[bytes]) -> int | None:
    """Remove the event time from an entry (name, data, name, data, ...) and return it; None if it has none."""
    if flat[-2:-1] != [TIME_FIELD]:
        return None
    digits = flat[-1]
    if not digits.isdigit() or len(digits) > _MOST_DIGITS:
        return None  # another program's field
    del flat[-2:]
    return int(digits)


def take_out_node(flat: list[bytes]) -> tuple[str, int] | None:
    """Remove the name of a node and its side from the fields of a replayed dead letter, and return them; None if there are none."""
    if flat[-2:-1] != [NODE_FIELD]:
        return None
    side, _, node = flat[-1].decode(errors="replace").partition(" ")
    if not side.isdecimal() or len(side) > _MOST_DIGITS:
        return None
    del flat[-2:]
    return node, int(side)


def has(*fields: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return a predicate that is true for entries with all of `fields`.

    >>> has("quotes")(Entry({"quotes": 1}, topic="market", id="1-0"))
    True
    """

    def predicate(entry: Mapping[str, Any]) -> bool:
        return all(field in entry for field in fields)

    predicate.__name__ = f"has({', '.join(fields)})"
    return predicate
