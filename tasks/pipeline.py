"""What makes a streamz graph safe to acknowledge on: a receipt for every entry that went in."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Metadata", "Receipt", "receipts"]

Metadata = list[dict[str, Any]] | None


class Receipt:
    """One entry's receipt: handed through the graph with it, done when nobody holds it any more.

    It stands where streamz expects its RefCounter, in the metadata under 'ref'. Unlike that, it calls back
    at once, in the thread that let go last, and not by way of a loop that may be busy.
    """

    __slots__ = ("_count", "_done", "group", "id", "outputs", "topic")

    def __init__(self, topic: str, id: str, *, group: str, done: Callable[["Receipt"], None]) -> None:  # noqa: A002 - the field's own name
        self.topic = topic
        self.id = id
        self.group = group
        self.outputs: Counter[Any] = Counter()
        """How many outputs each sink has made of each set of inputs that this entry was the first of."""
        self._count = 1
        self._done = done

    def retain(self, n: int = 1) -> None:
        """Hold the entry `n` times more."""
        self._count += n

    def release(self, n: int = 1) -> None:
        """Let go of the entry `n` times; the last to let go makes it done."""
        self._count -= n
        if self._count == 0:
            self._done(self)

    def __repr__(self) -> str:
        return f"Receipt({self.topic!r}, {self.id!r}, held={self._count})"


def receipts(metadata: Metadata) -> list[Receipt]:
    """Return the receipts of the entries an element was made of, each once, in the order they came in."""
    found: Iterable[Any] = (m["ref"] for m in metadata or () if m and isinstance(m.get("ref"), Receipt))
    return list(dict.fromkeys(found))
