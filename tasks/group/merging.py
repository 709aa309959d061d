"""Merge of the entries of several topics by id, so that a replay returns entries in the order of the live run.

All ids come from one clock, that of Redis. So once a topic was read to its end at a time T, later entries of it have ids of
T or above. No older entry can follow below the T of every topic, and up to the last id read of each topic that has more: these
entries are ready to be returned. No entry waits for one that may never come.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from tasks.base.ids import id_numbers

__all__ = ["Merging", "Raw"]

Raw = tuple[str, list[bytes], int]
"""An entry before decoding: its id; name, data, name, data, ...; and the number of their bytes."""
_Numbers = tuple[float, float]


class _Originated(Protocol):
    @property
    def origin(self) -> tuple[str, str]: ...


_Entry = TypeVar("_Entry", bound=_Originated)
_NONE: _Numbers = (-1.0, 0.0)
_ALL: _Numbers = (float("inf"), 0.0)


class _Lane:
    """The merged entries of one topic, and up to where the topic is known.

    is_cut    whether the topic may have more entries after `last`: it is known up to that id. Otherwise up to `time`, in ms
    is_full   whether it has more new entries: the last read returned as many as it asked for
    ahead     the id of the last entry that was merged before the last look at the clock
    """

    __slots__ = ("ahead", "is_cut", "is_full", "last", "raws", "time")

    def __init__(self) -> None:
        self.raws: list[Raw] = []
        self.is_cut, self.is_full = True, False
        self.last, self.time, self.ahead = _NONE, 0.0, _NONE

    def up_to(self, limit: _Numbers) -> int:
        """Return how many entries have ids up to `limit`."""
        raws = self.raws
        if not raws or self.last <= limit:
            return len(raws)
        return bisect_right(raws, limit, key=_numbers)

    def is_known_up_to(self, numbers: _Numbers) -> bool:
        return numbers <= self.last if self.is_cut else numbers[0] < self.time


class Merging:
    """Entries of several topics that were read and not returned yet, by topic in id order."""

    def __init__(self, topics: Iterable[str]) -> None:
        self._lanes = {topic: _Lane() for topic in topics}
        self._turns = {topic: n for n, topic in enumerate(self._lanes)}  # order among entries of one id
        self._micros = 0

    def __len__(self) -> int:
        """Return the number of entries."""
        return sum(len(lane.raws) for lane in self._lanes.values())

    @property
    def is_timed(self) -> bool:
        """Whether reads must include the server's time."""
        return len(self._lanes) > 1

    @property
    def has_more(self) -> bool:
        """Whether the last read of any topic left new entries unread."""
        return any(lane.is_full for lane in self._lanes.values())

    def ids(self, topic: str) -> list[str]:
        """Return the ids of a topic's merged entries."""
        return [raw[0] for raw in self._lanes[topic].raws]

    def add(self, topic: str) -> None:
        """Add a topic to the merge."""
        self._turns.setdefault(topic, len(self._turns))
        self._lanes[topic] = _Lane()

    def forget(self, topic: str) -> None:
        """Forget a topic's entries, and up to where it is known: it is read again."""
        self._lanes[topic] = _Lane()

    def clock(self, micros: int) -> None:
        """Set the server's time just before the read that is put next, in microseconds."""
        self._micros = micros
        for lane in self._lanes.values():
            lane.ahead = lane.last if lane.raws else _NONE

    def put(self, topic: str, raws: list[Raw], *, is_cut: bool, is_full: bool = False) -> None:
        """Add entries of a topic, which follow its earlier ones.

        is_cut    whether the topic may have more; False if it had none at the time of `clock`
        """
        lane = self._lanes[topic]
        lane.raws = lane.raws + raws if lane.raws else raws
        lane.is_cut, lane.is_full = is_cut, is_full
        if raws:
            lane.last = _numbers(raws[-1])
        if not is_cut:
            lane.time = self._micros // 1000

    def end(self, topic: str) -> None:
        """Note that a topic has no more entries to read."""
        lane = self._lanes[topic]
        lane.is_cut, lane.is_full, lane.time = False, False, float("inf")

    def ready(self) -> dict[str, int]:
        """Return how many entries of each topic are ready to be returned: no older entry of any topic can follow."""
        lanes = self._lanes
        if len(lanes) == 1:
            return {topic: len(lane.raws) for topic, lane in lanes.items() if lane.raws}
        cut = min([lane.last for lane in lanes.values() if lane.is_cut], default=_ALL)
        time = min([lane.time for lane in lanes.values() if not lane.is_cut], default=_ALL[0])
        limit, now = min(cut, (time - 1, _ALL[0])), self._micros // 1000
        found: dict[str, int] = {}
        for topic, lane in lanes.items():
            count = lane.up_to(limit)
            # An id above the time at which its entry was already merged comes from another clock: it would wait for ever.
            if count < len(lane.raws) and _numbers(lane.raws[count])[0] > now:
                count = max(count, lane.up_to(min(cut, lane.ahead)))
            if count:
                found[topic] = count
        return found

    def take(self, counts: Mapping[str, int]) -> dict[str, list[Raw]]:
        """Remove the first entries of some topics and return them."""
        taken: dict[str, list[Raw]] = {}
        for topic, count in counts.items():
            lane = self._lanes[topic]
            taken[topic], lane.raws = lane.raws[:count], lane.raws[count:]
        return taken

    def size(self, counts: Mapping[str, int]) -> tuple[int, bytes]:
        """Return the total bytes of the first entries of some topics, and the name or data among them that sorts last."""
        found = [raw for topic, count in counts.items() for raw in self._lanes[topic].raws[:count]]
        return sum([size for _, _, size in found]), max([max(flat) for _, flat, _ in found], default=b"")

    def raws(self, counts: Mapping[str, int]) -> list[tuple[str, Raw]]:
        """Return the first entries of some topics in merged order."""
        raws = [(topic, raw) for topic, count in counts.items() for raw in self._lanes[topic].raws[:count]]
        return raws if len(counts) == 1 else sorted(raws, key=lambda one: self._place((one[0], one[1][0])))

    def in_order(self, counts: Mapping[str, int]) -> list[tuple[str, str]]:
        """Return topic and id of the first entries of some topics in merged order."""
        origins = [(topic, raw[0]) for topic, count in counts.items() for raw in self._lanes[topic].raws[:count]]
        return sorted(origins, key=self._place)

    def sorted(self, entries: list[_Entry]) -> list[_Entry]:
        """Return entries in merged order: by id, and entries of one id in the order of their topics."""
        turns = self._turns

        def place(entry: _Entry) -> tuple[int, int, int]:  # the same as `_place`, in half the time
            topic, id_ = entry.origin
            ms, sequence = id_.split("-")
            return int(ms), int(sequence), turns[topic]

        return sorted(entries, key=place)

    def wanted(self) -> list[str]:
        """Return the topics to read next, so that entries become ready; none if all have ended."""
        going = {topic: lane for topic, lane in self._lanes.items() if lane.is_cut or lane.time != _ALL[0]}
        heads = [_numbers(lane.raws[0]) for lane in self._lanes.values() if lane.raws]
        if not heads:
            return list(going)
        head = min(heads)
        return [topic for topic, lane in going.items() if not lane.is_known_up_to(head)]

    def _place(self, origin: tuple[str, str]) -> tuple[int, int, int]:
        topic, id_ = origin
        return *id_numbers(id_), self._turns[topic]

    def pause(self) -> float:
        """Return the seconds, less than a millisecond, until the server's clock has passed the oldest merged entry."""
        heads = [_numbers(lane.raws[0])[0] for lane in self._lanes.values() if lane.raws]
        is_now = self.is_timed and heads and min(heads) == self._micros // 1000
        return (1000 - self._micros % 1000) / 1e6 if is_now else 0.0


def _numbers(raw: Raw) -> _Numbers:
    return id_numbers(raw[0])
