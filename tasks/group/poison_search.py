"""Which entries that were taken over from the dead may be in flight together, when one of them may be deadly.

An entry that its consumers die of is to be a dead letter, and those that were only in flight with it are not. One at a
time settles that, but takes a round trip and the whole pipeline for each: some 100 entries a second.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence

from tasks.checks import check_number

__all__ = ["Suspects", "in_flight_together"]

Origin = tuple[str, str]

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
    """One consumer's suspects: taken over from the dead, and not handed out since. False if there are none.

    An entry is named by its topic and id.
    """

    def __init__(self, *, max_deliveries: int) -> None:
        check_number(max_deliveries, least=1, name="max_deliveries")
        self._max_deliveries = max_deliveries
        # How often each was delivered to the dead; 0 until that is known.
        self._deliveries: dict[Origin, int] = {}

    def __bool__(self) -> bool:
        return bool(self._deliveries)

    def add(self, topic: str, ids: Iterable[str]) -> None:
        """Suspect entries that were just taken over."""
        self._deliveries.update(dict.fromkeys([(topic, id_) for id_ in ids], 0))

    def first(self, origins: Sequence[Origin], deliveries: Mapping[Origin, int]) -> list[Origin]:
        """Return the first of some entries that may be handed out together: suspects, or others that are none.

        deliveries   how often each suspect counts as delivered. What is learned first stays, so that a count whose reply
                     was lost, and that is made again, counts nothing twice
        """
        suspects = self._deliveries
        others = list(itertools.takewhile(lambda origin: origin not in suspects, origins))
        if others or not origins:
            return others
        suspected = list(itertools.takewhile(lambda origin: origin in suspects, origins))
        for origin in suspected:
            suspects[origin] = suspects[origin] or deliveries[origin]
        times = (suspects[origin] for origin in suspected)
        return suspected[: in_flight_together(times, max_deliveries=self._max_deliveries)]

    def deliveries(self, origins: Iterable[Origin]) -> dict[Origin, int]:
        """Return how often those entries that are suspects were delivered to the dead."""
        return {origin: self._deliveries[origin] for origin in origins if origin in self._deliveries}

    def clear(self, origins: Iterable[Origin]) -> None:
        """Forget entries that are handed out, or gone."""
        for origin in origins:
            self._deliveries.pop(origin, None)

    def keep_only(self, topic: str, ids: Collection[str]) -> None:
        """Forget all entries of a topic but these."""
        self.clear([origin for origin in self._deliveries if origin[0] == topic and origin[1] not in ids])
