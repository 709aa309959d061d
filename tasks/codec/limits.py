"""Limits of an entry's size, and the budget that decoding spends. Imports neither Arrow nor pandas."""

from dataclasses import dataclass

from tasks.errors import PoisonEntryError

__all__ = ["DEFAULT_LIMITS", "Budget", "Limits"]

_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Upper bounds for the sum of all fields of one entry.

    max_entry_bytes    stored bytes, including field names
    max_decoded_bytes  memory of the decoded values, estimated before decoding
    max_rows           rows of all tables
    max_columns        columns of all tables, including nested ones
    """

    max_entry_bytes: int = 64 * _MIB
    max_decoded_bytes: int = 256 * _MIB
    max_rows: int = 10_000_000
    max_columns: int = 10_000


DEFAULT_LIMITS = Limits()


class Budget:
    """The rest of `limits` while one entry is decoded; raises PoisonEntryError when it is exceeded.

    is_weighed   whether the entry was weighed before, so that decoding does not weigh its frames again
    """

    __slots__ = ("_columns", "_decoded", "_encoded", "_rows", "is_weighed", "limits")

    def __init__(self, limits: Limits, *, is_weighed: bool = False) -> None:
        """Start with nothing spent."""
        self.limits = limits
        self.is_weighed = is_weighed
        self._encoded = self._decoded = self._rows = self._columns = 0

    @property
    def decoded(self) -> int:
        """Memory spent so far, in bytes."""
        return self._decoded

    def spend_encoded(self, size: int) -> None:
        """Charge `size` stored bytes."""
        self._encoded += size
        if self._encoded > self.limits.max_entry_bytes:
            _refuse("bytes", self.limits.max_entry_bytes, self._encoded)

    def spend_decoded(self, size: int) -> None:
        """Charge `size` bytes of memory."""
        self._decoded += size
        if self._decoded > self.limits.max_decoded_bytes:
            _refuse("bytes once decoded", self.limits.max_decoded_bytes, self._decoded)

    def spend_rows(self, count: int) -> None:
        """Charge `count` rows."""
        self._rows += count
        if self._rows > self.limits.max_rows:
            _refuse("rows", self.limits.max_rows, self._rows)

    def spend_columns(self, count: int) -> None:
        """Charge `count` columns."""
        self._columns += count
        if self._columns > self.limits.max_columns:
            _refuse("columns", self.limits.max_columns, self._columns)


def _refuse(what: str, limit: int, got: int) -> None:
    msg = f"expected at most {limit:,} {what} in one entry, got {got:,} or more"
    raise PoisonEntryError(msg)
