"""Which entries that were taken over from the dead may be in flight together, when one of them may be deadly.

An entry that its consumers die of is to be a dead letter, and those that were only in flight with it are not. One at a
time settles that, but takes a round trip and the whole pipeline for each: some 100 entries a second.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from tasks.settings import check_number

__all__ = ["Suspects", "in_flight_together"]

# By how many deaths an entry was in flight at. At one, hundreds were, nearly all by chance; at three, one in few.
_TOGETHER = {1: 1_000, 2: 16}


def in_flight_together(deliveries: Iterable[int], *, max_deliveries: int) -> int:
    """Return how many of the first of some suspects may be in flight at once, by how often each was delivered.

    The last delivery of each is to itself: what becomes a dead letter by its deliveries was alone when a consumer died.

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


class Suspects:
    """One consumer's suspects: taken over from the dead, and not handed out since. False if there are none."""

    def __init__(self, *, max_deliveries: int) -> None:
        check_number(max_deliveries, least=1, name="max_deliveries")
        self._max_deliveries = max_deliveries
        # How often each was delivered to the dead; 0 until that is known.
        self._deliveries: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def __bool__(self) -> bool:
        return any(self._deliveries.values())

    def add(self, topic: str, ids: Iterable[str]) -> None:
        """Suspect entries that were just taken over."""
        self._deliveries[topic].update(dict.fromkeys(ids, 0))

    def first(self, topic: str, ids: Sequence[str], deliveries: Mapping[str, int]) -> list[str]:
        """Return the first of `ids` that may be handed out together: suspects, or others that are none.

        deliveries   how often each counts as delivered. What is learned first stays, so that a count whose reply was
                     lost, and that is made again, counts nothing twice
        """
        suspects = self._deliveries[topic]
        others = list(itertools.takewhile(lambda id_: id_ not in suspects, ids))
        if others or not ids:
            return others
        suspected = list(itertools.takewhile(lambda id_: id_ in suspects, ids))
        for id_ in suspected:
            suspects[id_] = suspects[id_] or deliveries[id_]
        times = (suspects[id_] for id_ in suspected)
        return suspected[: in_flight_together(times, max_deliveries=self._max_deliveries)]

    def deliveries(self, topic: str, ids: Iterable[str]) -> dict[str, int]:
        """Return how often those of `ids` that are suspects were delivered to the dead."""
        suspects = self._deliveries[topic]
        return {id_: suspects[id_] for id_ in ids if id_ in suspects}

    def clear(self, topic: str, ids: Iterable[str] | None = None) -> None:
        """Forget entries that are handed out, or gone; by default all of the topic."""
        for id_ in list(self._deliveries[topic]) if ids is None else ids:
            self._deliveries[topic].pop(id_, None)
