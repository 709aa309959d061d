"""Limit on the entries that are decoded together: a read of few bytes can take much memory once decoded."""

from collections import Counter
from collections.abc import Mapping

from tasks.codec.decoding import DEFAULT_DECODING, Decoding
from tasks.codec.fields import weigh_fields
from tasks.codec.json_text import SMALL, SMALL_WEIGHT
from tasks.codec.limits import DEFAULT_LIMITS, Budget
from tasks.codec.values import IPC
from tasks.group.merging import Merging

__all__ = ["Parts"]


class Parts:
    """Divides merged entries into parts of limited decoded size.

    max_bytes   upper bound for the memory of a part; at least one entry is in each part
    decoding    how the fields of entries become values
    """

    def __init__(self, max_bytes: int, decoding: Decoding = DEFAULT_DECODING) -> None:
        self._max_bytes = max_bytes
        self.decoding = decoding
        self._weighed: set[tuple[str, str]] = set()

    def first(self, merging: Merging, counts: Mapping[str, int]) -> Mapping[str, int]:
        """Return how many of the first entries of each topic form the next part: at least one in total."""
        self._weighed.clear()
        size, last = merging.size(counts)
        if size * SMALL_WEIGHT <= self._max_bytes and last < IPC:
            return counts
        found: Counter[str] = Counter()
        left = self._max_bytes
        for topic, (id_, flat, size) in merging.raws(counts):
            is_small = size <= SMALL and max(flat) < IPC  # a small frame can be large
            left -= size * SMALL_WEIGHT if is_small else self._weight(topic, id_, flat)
            if left < 0 and found:
                break
            found[topic] += 1
        return found

    def budget(self, origin: tuple[str, str]) -> Budget:
        """Return the limits for decoding an entry. An entry that was weighed for a part is not weighed again."""
        return Budget(DEFAULT_LIMITS, is_weighed=origin in self._weighed)

    def _weight(self, topic: str, id_: str, flat: list[bytes]) -> int:
        try:
            weight = weigh_fields(zip(flat[::2], flat[1::2], strict=True))
        except Exception:  # noqa: BLE001 - decoding will raise the same, without taking memory
            return 0
        self._weighed.add((topic, id_))
        return weight
