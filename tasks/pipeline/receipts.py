"""A receipt for every entry: held by whoever has work left with it, and acknowledged when nobody holds it any more."""

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.reservoir.entry import Entry
from tasks.reservoir.fence import Fence

__all__ = ["Failure", "LazyReceipts", "Metadata", "Receipt", "receipts"]

Metadata = list[dict[str, Any]] | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an entry could not be processed: at which node, and what was raised there."""

    node: str
    error: BaseException

    @property
    def traceback(self) -> str:
        """What Python prints of the error."""
        return "".join(traceback.format_exception(self.error))

    def described(self) -> dict[str, str]:
        """Return the failure as a dead letter has it."""
        return {"node": self.node, "exception": repr(self.error), "traceback": self.traceback}


class Receipt:
    """One entry's receipt: handed through the graph with it, done when nobody holds it any more.

    It stands where streamz expects its RefCounter, in the metadata under 'ref'. Unlike that, it calls back
    at once, in the thread that let go last, and not by way of a loop that may be busy.
    """

    __slots__ = ("_count", "_done", "_failed", "_results", "failure", "fence", "id", "is_settled", "kept", "topic")

    def __init__(
        self,
        topic: str,
        id: str,  # noqa: A002 - the field's own name
        *,
        fence: Fence,
        done: Callable[["Receipt"], None],
        failed: Callable[["Receipt"], None] | None = None,
    ) -> None:
        self.topic = topic
        self.id = id
        self.fence = fence
        self.failure: Failure | None = None
        self._results: Counter[Any] | None = None
        self.kept = 0
        """How many of its holders are nodes that keep it for elements to come, a window or a zip."""
        self.is_settled = False
        """Whether a stored state covers the entry, so that it was acknowledged while nodes still keep it."""
        self._count = 1
        self._done = done
        self._failed = failed

    def retain(self, n: int = 1) -> None:
        """Hold the entry `n` times more."""
        self._count += n

    def release(self, n: int = 1) -> None:
        """Let go of the entry `n` times; the last to let go makes it done."""
        self._count -= n
        if self._count == 0:
            self._done(self)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is being done with the entry: it is done, or only kept for elements to come."""
        return self._count == self.kept

    @property
    def has_results(self) -> bool:
        """Whether the entry keeps records of results."""
        return self._results is not None

    def count_result(self, *made_by: Any) -> int:
        """Return how many results the same sink has made of the same entries before, and count one more."""
        if self._results is None:
            self._results = Counter()
        self._results[made_by] += 1
        return self._results[made_by] - 1

    def fail(self, failure: Failure) -> None:
        """Mark the entry as failed; the first failure is the one that counts."""
        if self.failure is None:
            self.failure = failure
            if self._failed is not None:
                self._failed(self)

    def __repr__(self) -> str:
        return f"Receipt({self.topic!r}, {self.id!r}, held={self._count})"


def receipts(metadata: Metadata) -> list[Receipt]:
    """Return the receipts of the entries an element was made of, each once, in the order they came in."""
    if not metadata:
        return []
    if len(metadata) == 1:
        only = metadata[0].get("ref")
        return [only] if isinstance(only, Receipt) else []
    found: Iterable[Any] = (m["ref"] for m in metadata if isinstance(m.get("ref"), Receipt))
    return list(dict.fromkeys(found))


class LazyReceipts:
    """The receipts of the element that a source is emitting, made when somebody first wants them.

    Most elements pass a fused run in one call, and nothing is left to do with them after it: nobody could have held
    their receipts. It is handed on where the metadata would be, but only to what knows it: `tasks.pipeline.fusion`.

    entries   what the element was made of; none while nothing is emitted
    made      their receipts, if somebody wanted them
    """

    __slots__ = ("_make", "entries", "made")

    def __init__(self, make: Callable[[Sequence[Entry]], list[Receipt]]) -> None:
        self._make = make
        self.entries: Sequence[Entry] = ()
        self.made: list[Receipt] = []

    def metadata(self) -> list[dict[str, Any]]:
        """Return what streamz' nodes hand on with the element."""
        if not self.made:
            self.made = self._make(self.entries)
        return [{"ref": receipt} for receipt in self.made]
