"""Number of entries per read: as many as fit into a limit of bytes, and more while the pipeline is quick.

Each read costs a round trip and wakes two threads. So a quick pipeline is given more entries at a time; a slow one is not, because
its entries would wait here while other consumers of the group have none.
"""

from collections.abc import Iterable

from tasks.checks import check_number

__all__ = ["MAX_BYTES", "MAX_ENTRIES", "USUAL_ENTRIES", "ReadSize"]

# Default bounds per read. Larger reads save this process nothing more, and cost the server: Valkey 9.1.2 with glibc's malloc
# took 4.8 us to deliver, check and acknowledge an entry in reads of 256, 5.5 us in reads of 1,024 and 6.0 us in reads of 2,048.
MAX_ENTRIES = 1024
MAX_BYTES = 4 * 2**20
USUAL_ENTRIES = 256

_FIRST = 8  # entries, before their size is known
_QUICK = 0.05  # seconds for the entries of a read; a pipeline that takes twice as long is not quick
_MOST_BYTES = 2**18  # of a larger read than usual, so that it need not be divided before it is decoded


class ReadSize:
    """Chooses the number of entries to read.

    max_entries, max_bytes   upper bounds per read; at least one entry is read
    usual_entries            upper bound until the pipeline has turned out to be quick
    """

    def __init__(self, max_entries: int, max_bytes: int, usual_entries: int = USUAL_ENTRIES) -> None:
        check_number(max_entries, least=1, name="max_entries")  # with 0 a consumer would never read
        check_number(max_bytes, least=1, name="max_bytes")
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._largest: float | None = None
        self._usual = self._wanted = min(max_entries, usual_entries)

    @property
    def entries(self) -> int:
        """The number of entries to read."""
        if self._largest is None:
            return min(self._max_entries, _FIRST)
        fitting = int(self._max_bytes / max(self._largest, 1))
        if self._wanted > self._usual:
            fitting = min(fitting, max(self._usual, int(_MOST_BYTES / max(self._largest, 1))))
        return max(1, min(self._wanted, fitting))

    def adapt(self, entries: int, seconds: float) -> None:
        """Adapt the reads to the time in which the caller has taken `entries`; fewer than a read show nothing."""
        if entries < self.entries:
            return
        if seconds < _QUICK:
            self._wanted = min(2 * self._wanted, self._max_entries)
        elif seconds > 2 * _QUICK and self._wanted > self._usual:
            self._wanted = max(self._wanted // 2, self._usual)

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
