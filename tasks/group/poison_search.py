"""Search for a poison message among the entries of a consumer that died.

An entry that kills its consumers becomes a dead letter, and entries that were only in flight with it do not. Delivering one entry
at a time would find it, but takes a round trip and the whole pipeline for each: some 100 entries a second. So the search
delivers few entries together, and fewer the more often they were in flight when a consumer died.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence

from tasks.checks import check_number

__all__ = ["PoisonSearch", "in_flight_together"]

Origin = tuple[str, str]

# How many entries may be in flight together, by the number of deaths that each was in flight at. At the first death hundreds
# are, nearly all by chance; after the third, one in few is the cause.
_TOGETHER = {1: 1_000, 2: 16}


def in_flight_together(deliveries: Iterable[int], *, max_deliveries: int) -> int:
    """Return how many of the first candidates may be in flight together, by how often each was delivered.

    Each candidate's last delivery is alone: so an entry that becomes a dead letter was alone in flight when a consumer died.

    >>> in_flight_together([1] * 500, max_deliveries=5), in_flight_together([2] * 500, max_deliveries=5)
    (500, 16)
    >>> in_flight_together([1, 1, 1, 3, 1], max_deliveries=5), in_flight_together([3, 1], max_deliveries=5)
    (3, 1)
    >>> in_flight_together([1, 1], max_deliveries=2)
    1
    """
    together, limit = 0, max(_TOGETHER.values())
    for times in deliveries:
        is_last = times + 1 >= max_deliveries
        limit = min(limit, 1 if is_last else _TOGETHER.get(times, 1))
        if together >= limit:
            break
        together += 1
    return together


class PoisonSearch:
    """The candidates of one consumer: entries taken over from dead consumers and not returned since. False without any.

    An entry is identified by its topic and id.
    """

    def __init__(self, *, max_deliveries: int) -> None:
        check_number(max_deliveries, least=1, name="max_deliveries")
        self.max_deliveries = max_deliveries
        # How often each was delivered to consumers that died; 0 while that is unknown.
        self._candidates: dict[Origin, int] = {}

    def __bool__(self) -> bool:
        return bool(self._candidates)

    def add(self, topic: str, ids: Iterable[str]) -> None:
        """Add candidates: entries that were just taken over."""
        self._candidates.update(dict.fromkeys([(topic, id_) for id_ in ids], 0))

    def first(self, origins: Sequence[Origin], deliveries: Mapping[Origin, int]) -> list[Origin]:
        """Return the first entries that may be in flight together: candidates only, or other entries only.

        deliveries   how often each candidate counts as delivered. The first number stays: if the reply to a count was lost
                     and it is sent again, it counts nothing twice
        """
        candidates = self._candidates
        others = list(itertools.takewhile(lambda origin: origin not in candidates, origins))
        if others or not origins:
            return others
        first = list(itertools.takewhile(lambda origin: origin in candidates, origins))
        for origin in first:
            candidates[origin] = candidates[origin] or deliveries[origin]
        times = (candidates[origin] for origin in first)
        return first[: in_flight_together(times, max_deliveries=self.max_deliveries)]

    def deliveries(self, origins: Iterable[Origin]) -> dict[Origin, int]:
        """Return how often the candidates among these entries were delivered to consumers that died."""
        return {origin: self._candidates[origin] for origin in origins if origin in self._candidates}

    def remove(self, origins: Iterable[Origin]) -> None:
        """Remove entries that are returned, or no longer pending."""
        for origin in origins:
            self._candidates.pop(origin, None)

    def keep_only(self, topic: str, ids: Collection[str]) -> None:
        """Remove all entries of a topic except these."""
        self.remove([origin for origin in self._candidates if origin[0] == topic and origin[1] not in ids])
