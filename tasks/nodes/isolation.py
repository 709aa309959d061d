"""Isolation of entries that may be poison messages: nothing else is read until they are done."""

import time
from collections.abc import Sequence

from tasks.group.consumer import Consumer
from tasks.group.delivery import Undecodable
from tasks.nodes.hand_over import Origin
from tasks.nodes.in_flight import InFlight
from tasks.reservoir.entry import Entry

__all__ = ["Isolation"]

# Reading continues after this many seconds in which no isolated entry finished or came to rest.
_PATIENCE = 5.0


class Isolation:
    """Keeps other entries out of flight while the graph works on some of which one may kill the process.

    All methods run in the reader's thread.
    """

    def __init__(self, consumer: Consumer, in_flight: InFlight) -> None:
        self._consumer = consumer
        self._in_flight = in_flight
        self._entries: set[Origin] = set()
        self._end = 0.0

    @property
    def is_on(self) -> bool:
        """Whether nothing else may be read now."""
        return bool(self._entries) and time.monotonic() < self._end

    def begin(self, entries: Sequence[Entry | Undecodable]) -> None:
        """Isolate entries that the consumer has just returned."""
        self._entries = {entry.origin for entry in entries}
        self._end = time.monotonic() + _PATIENCE

    def update(self) -> bool:
        """Drop entries that are done, and those that nodes only keep by now; return whether any are left.

        The delivery counts of kept entries start again at one: they were processed, and killed no consumer.
        """
        left = {origin for origin in self._entries if self._consumer.holds(*origin)}
        at_rest = left & self._in_flight.at_rest
        for topic in {topic for topic, _ in at_rest}:
            self._consumer.reset_deliveries(topic, [id_ for of, id_ in at_rest if of == topic])
        left -= at_rest
        if len(left) < len(self._entries):
            self._end = time.monotonic() + _PATIENCE
        self._entries = left
        return bool(left)
