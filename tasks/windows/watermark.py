"""The watermark: up to which event time windows are closed, as a function of the entries and their ids alone.

Each element has an event time, and a position: the time in the id of the entry that it came with, by Redis' clock. The watermark
follows the newest event time of each topic, less the lateness, and takes the least of the topics. A topic without an element for
`close_after` is idle, and holds up no other. When all are idle, the watermark goes on with the positions.

Positions are ids: they are the same in a replay. When no entry comes, the run learns from Redis that there is none up to some time,
which is a position, too. It closes the windows that the next entry would close before anything else. So a window that closes
because time passes closes between the same two elements, live and in a replay.

What depends on positions depends on when entries were appended. `by_events` is where the watermark would be if no topic were ever
idle: what it has reached depends on event times and the order of entries alone.
"""

from collections.abc import Iterable
from typing import Any

__all__ = ["NEVER", "Watermark"]

NEVER = -(2**63)
_FOR_EVER = 2**63


class Watermark:
    """All times are in milliseconds since the epoch.

    lateness      by which elements may be older than the newest one
    close_after   after so long without an element, a topic is idle; None: never
    value         all windows that end here or before are closed
    at            the position up to which elements and time are known
    quiet_until   before this position, time alone changes nothing
    """

    def __init__(self, lateness: int, close_after: int | None) -> None:
        self._lateness, self._idle = lateness, close_after
        self._topics: dict[str, list[int]] = {}  # its newest event time, the position of that, the last position
        self._by_earlier_topics = NEVER
        self.value = NEVER
        self.at = NEVER
        self.quiet_until = NEVER

    def expect(self, topics: Iterable[str], at: int) -> None:
        """Take in topics that have had no element: until they have one, or are idle, the watermark waits for them."""
        if not self._topics:
            self._topics = {topic: [NEVER, at, at] for topic in topics}

    def see(self, topic: str, time: int, at: int) -> None:
        """Take in the event time of an element at a position."""
        known = self._topics.get(topic)
        if known is None:
            self._by_earlier_topics = self.by_events
            self._topics[topic] = [time, at, at]
        else:
            if time > known[0]:
                known[0], known[1] = time, at
            known[2] = max(known[2], at)
            if len(self._topics) == 1:  # nearly all pipelines; the same as below
                self.at = known[2]
                self.value = max(self.value, known[0] - self._lateness)
                self.quiet_until = _FOR_EVER if self._idle is None else known[2] + self._idle
                return
        self.move(at)

    def move(self, at: int) -> None:
        """Let time pass up to a position."""
        self.at = max(self.at, at)
        if self._topics:
            self.value = max(self.value, self._reached() - self._lateness)
            if self._idle is None:
                self.quiet_until = _FOR_EVER
            else:
                bounds = [last + self._idle for _, _, last in self._topics.values()]
                self.quiet_until = min((bound for bound in bounds if bound > self.at), default=NEVER)

    def next(self, end: int) -> int | None:
        """Return the next position at which the watermark may reach `end` without another element; None if at none."""
        if self._idle is None or not self._topics:
            return None
        lanes = self._topics.values()
        found = [last + self._idle for _, _, last in lanes]
        found += [at + end + self._lateness + self._idle - newest for newest, at, _ in lanes]
        return min((one for one in found if one > self.at), default=None)

    @property
    def by_events(self) -> int:
        """The watermark as it would be if no topic were ever idle."""
        newest = min([newest for newest, _, _ in self._topics.values()], default=NEVER)
        return max(self._by_earlier_topics, newest - self._lateness)

    def stored(self) -> Any:
        """Return all that `restore` needs."""
        topics = {topic: list(known) for topic, known in self._topics.items()}
        return self.value, self.at, topics, self._by_earlier_topics

    def restore(self, stored: Any) -> None:
        """Continue where another watermark was."""
        self.value, self.at, topics, *rest = stored
        self._by_earlier_topics = rest[0] if rest else NEVER  # states that are older than this part lack it
        self.quiet_until = NEVER
        self._topics = {topic: list(known) for topic, known in topics.items()}

    def _reached(self) -> int:
        lanes = self._topics.values()
        if self._idle is None:
            return min([newest for newest, _, _ in lanes])
        active = [newest for newest, _, last in lanes if self.at - last < self._idle]
        if active:
            return min(active)
        return max([newest + max(0, self.at - at - self._idle) for newest, at, _ in lanes])
