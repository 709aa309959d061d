"""How large an entry may be, and what is left of that while it is decoded. Pure: neither Arrow nor pandas."""

from dataclasses import dataclass

from tasks.errors import PoisonEntryError

__all__ = ["DEFAULT_LIMITS", "Budget", "Limits"]

_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large one entry may be, all its fields together.

    max_entry_bytes    bytes as stored, field names included
    max_decoded_bytes  the memory that its values take at most, which is estimated from the bytes before they are decoded
    max_rows           rows of all its tables together
    max_columns        columns of all its tables together, nested ones counted too
    """

    max_entry_bytes: int = 64 * _MIB
    max_decoded_bytes: int = 256 * _MIB
    max_rows: int = 10_000_000
    max_columns: int = 10_000


DEFAULT_LIMITS = Limits()


class Budget:
    """What is left of `limits` while one entry is decoded; raises PoisonEntryError once it is spent.

    is_weighed   whether the entry was weighed before: then decoding it does not weigh its frames again
    """

    __slots__ = ("_columns", "_decoded", "_encoded", "_rows", "is_weighed", "limits")

    def __init__(self, limits: Limits, *, is_weighed: bool = False) -> None:
        """Begin with nothing spent."""
        self.limits = limits
        self.is_weighed = is_weighed
        self._encoded = self._decoded = self._rows = self._columns = 0

    @property
    def decoded(self) -> int:
        """The memory that was spent so far, in bytes."""
        return self._decoded

    def spend_encoded(self, size: int) -> None:
        """Take `size` bytes as stored off what is left."""
        self._encoded += size
        if self._encoded > self.limits.max_entry_bytes:
            _refuse("bytes", self.limits.max_entry_bytes, self._encoded)

    def spend_decoded(self, size: int) -> None:
        """Take `size` bytes of memory off what is left."""
        self._decoded += size
        if self._decoded > self.limits.max_decoded_bytes:
            _refuse("bytes once decoded", self.limits.max_decoded_bytes, self._decoded)

    def spend_rows(self, count: int) -> None:
        """Take `count` rows off what is left."""
        self._rows += count
        if self._rows > self.limits.max_rows:
            _refuse("rows", self.limits.max_rows, self._rows)

    def spend_columns(self, count: int) -> None:
        """Take `count` columns off what is left."""
        self._columns += count
        if self._columns > self.limits.max_columns:
            _refuse("columns", self.limits.max_columns, self._columns)


def _refuse(what: str, limit: int, got: int) -> None:
    msg = f"expected at most {limit:,} {what} in one entry, got {got:,} or more"
    raise PoisonEntryError(msg)
