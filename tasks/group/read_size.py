"""How much to ask Redis for at once: what fits into a bound of bytes, from the size of the entries that came lately."""

from collections.abc import Iterable

from tasks.checks import check_number

__all__ = ["ReadSize"]

_FIRST = 8  # entries, before their size is known


class ReadSize:
    """The size of reads.

    max_entries, max_bytes   what one is to bring at most, but one entry, however large
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        check_number(max_entries, least=1, name="max_entries")  # with 0 a consumer would ask for nothing, for ever
        check_number(max_bytes, least=1, name="max_bytes")
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._largest: float | None = None

    @property
    def entries(self) -> int:
        """How many entries to ask for."""
        if self._largest is None:
            return min(self._max_entries, _FIRST)
        return max(1, min(self._max_entries, int(self._max_bytes / max(self._largest, 1))))

    def of_each(self, topics: int, *, besides: int = 0) -> int:
        """Return how many to ask each of so many topics for, which is what the COUNT of a read is of.

        besides   how many entries there are already that are to be handed out with those
        """
        return max(1, (self.entries - besides) // topics)

    def weigh(self, raws: Iterable[tuple[bytes, list[bytes]]]) -> list[tuple[str, list[bytes], int]]:
        """Return entries that have come as name, data, name, data, ... with the bytes of each, and mind the largest."""
        weighed = [
            # Most have one field.
            (id_.decode(), flat, len(flat[0]) + len(flat[1]) if len(flat) == 2 else sum(map(len, flat)))  # noqa: PLR2004
            for id_, flat in raws
        ]
        if weighed:
            largest = max([size for _, _, size in weighed])
            # It is forgotten slowly: small entries between large ones do not make the next read large.
            known = self._largest
            self._largest = largest if known is None or largest > known else known + (largest - known) / 8
        return weighed
