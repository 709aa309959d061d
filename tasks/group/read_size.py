"""Number of entries per read: as many as fit into a limit of bytes, estimated from the size of recent entries."""

from collections.abc import Iterable

from tasks.checks import check_number

__all__ = ["MAX_BYTES", "MAX_ENTRIES", "ReadSize"]

# Default bounds per read.
MAX_ENTRIES = 256
MAX_BYTES = 4 * 2**20

_FIRST = 8  # entries, before their size is known


class ReadSize:
    """Chooses the number of entries to read.

    max_entries, max_bytes   upper bounds per read; at least one entry is read
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        check_number(max_entries, least=1, name="max_entries")  # with 0 a consumer would never read
        check_number(max_bytes, least=1, name="max_bytes")
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._largest: float | None = None

    @property
    def entries(self) -> int:
        """The number of entries to read."""
        if self._largest is None:
            return min(self._max_entries, _FIRST)
        return max(1, min(self._max_entries, int(self._max_bytes / max(self._largest, 1))))

    def of_each(self, topics: int, *, besides: int = 0) -> int:
        """Return the number of entries to read from each of several topics: the COUNT of a read.

        besides   the number of merged entries that are returned together with them
        """
        return max(1, (self.entries - besides) // topics)

    def weigh(self, raws: Iterable[tuple[bytes, list[bytes]]]) -> list[tuple[str, list[bytes], int]]:
        """Return entries (name, data, name, data, ...) with the bytes of each, and update the size estimate."""
        weighed = [
            # Most have one field.
            (id_.decode(), flat, len(flat[0]) + len(flat[1]) if len(flat) == 2 else sum(map(len, flat)))  # noqa: PLR2004
            for id_, flat in raws
        ]
        if weighed:
            largest = max([size for _, _, size in weighed])
            # It decreases slowly, so that small entries between large ones do not make the next read too large.
            known = self._largest
            self._largest = largest if known is None or largest > known else known + (largest - known) / 8
        return weighed
