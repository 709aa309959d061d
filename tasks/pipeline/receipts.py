"""Receipts: each counts the holders of an entry, which is acknowledged when the last one releases it."""

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.errors import PipelineError
from tasks.reservoir.entry import Entry
from tasks.reservoir.fence import Fence

__all__ = [
    "FAILED_BEFORE",
    "Failure",
    "LazyReceipts",
    "Metadata",
    "Receipt",
    "event_time",
    "in_full",
    "origins",
    "receipts",
]

Metadata = list[dict[str, Any]] | None
"""What streamz passes on with an element. In a fused run, `LazyReceipts` may take its place: see `in_full`."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an entry failed: the node, its exception, and how many attempts were made, if more than one."""

    node: str
    error: BaseException
    attempts: int = 1

    @property
    def traceback(self) -> str:
        """The error as Python prints it, with its causes."""
        return "".join(traceback.format_exception(self.error))

    def described(self) -> dict[str, str]:
        """Return the failure as a dead letter has it."""
        attempts = {"attempts": str(self.attempts)} if self.attempts > 1 else {}
        return {"node": self.node, "exception": repr(self.error), **attempts, "traceback": self.traceback}


FAILED_BEFORE = Failure("", PipelineError("failed before a restart"))
"""The failure of an entry that is a dead letter since an earlier life of the pipeline."""


class Receipt:
    """A count of an entry's holders, passed through the graph with it; the last release finishes the entry.

    It takes the place of streamz' RefCounter, in the metadata under 'ref'. Unlike a RefCounter, it calls back at once in
    the thread of the last release, without a loop that may be busy.

    done      called once, when the last holder releases the entry
    failed    called once, at the first failure
    time_ms   the entry's event time, in milliseconds since the epoch
    """

    __slots__ = (
        "_calls",
        "_count",
        "_done",
        "_failed",
        "_results",
        "failure",
        "fence",
        "id",
        "is_settled",
        "kept",
        "pushed_as",
        "time_ms",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        id: str,  # noqa: A002 - the field's own name
        *,
        fence: Fence,
        done: Callable[["Receipt"], None],
        failed: Callable[["Receipt"], None] | None = None,
        time_ms: int = 0,
    ) -> None:
        self.topic = topic
        self.pushed_as = (topic, id)
        """The topic and the id that the entry was pushed under; a replayed dead letter is read under others."""
        self.time_ms = time_ms
        self.id = id
        self.fence = fence
        self.failure: Failure | None = None
        self._results: Counter[Any] | None = None
        self._calls: Counter[Any] | None = None
        self.kept = 0
        """Number of holds by nodes that keep it for later elements, such as a window or a zip."""
        self.is_settled = False
        """Whether a stored state covers the entry, so that it was acknowledged while nodes still keep it."""
        self._count = 1
        self._done = done
        self._failed = failed

    def retain(self, n: int = 1) -> None:
        """Add `n` holds on the entry."""
        self._count += n

    def release(self, n: int = 1) -> None:
        """Remove `n` holds; removing the last one finishes the entry."""
        self._count -= n
        if self._count == 0:
            self._done(self)

    @property
    def is_at_rest(self) -> bool:
        """Whether no work on the entry is under way: it is finished, or only kept for later elements."""
        return self._count == self.kept

    @property
    def has_results(self) -> bool:
        """Whether the entry has a record: a sink has counted a result, or a call has failed that is repeated."""
        return self._results is not None

    def note_record(self) -> None:
        """Note that the entry has a record, which goes with its acknowledgement."""
        if self._results is None:
            self._results = Counter()

    def count_call(self, *made_by: Any) -> int:
        """Return the number of earlier calls by the same node with elements of the same entries, and count one more."""
        if self._calls is None:
            self._calls = Counter()
        self._calls[made_by] += 1
        return self._calls[made_by] - 1

    def count_result(self, *made_by: Any) -> int:
        """Return the number of earlier results by the same sink from the same entries, and count one more.

        made_by    the sink and the ids of its input entries
        """
        if self._results is None:
            self._results = Counter()
        self._results[made_by] += 1
        return self._results[made_by] - 1

    def fail(self, failure: Failure) -> None:
        """Mark the entry as failed; later failures are ignored."""
        if self.failure is None:
            self.failure = failure
            if self._failed is not None:
                self._failed(self)

    def __repr__(self) -> str:
        return f"Receipt({self.topic!r}, {self.id!r}, held={self._count})"


def receipts(metadata: Metadata) -> list[Receipt]:
    """Return the receipts of an element's input entries, once each, in order of arrival."""
    if not metadata:
        return []
    if type(metadata) is LazyReceipts:
        metadata = metadata.metadata()
    if len(metadata) == 1:
        only = metadata[0].get("ref")
        return [only] if isinstance(only, Receipt) else []
    found: Iterable[Any] = (m["ref"] for m in metadata if isinstance(m.get("ref"), Receipt))
    return list(dict.fromkeys(found))


def event_time(metadata: Metadata) -> int | None:
    """Return the event time of an element, in milliseconds since the epoch; None if it was made of no entry.

    It is that of the newest entry that the element was made of, unless a node has given the element another one, as 'time'.
    """
    if type(metadata) is LazyReceipts:
        entries = metadata.entries
        return entries[0].time_ms if len(entries) == 1 else max([entry.time_ms for entry in entries])
    if metadata and len(metadata) == 1 and "time" not in metadata[0]:
        only = metadata[0].get("ref")
        return only.time_ms if isinstance(only, Receipt) and only.id else None
    given = [m["time"] for m in metadata or () if "time" in m]
    return max(given or [one.time_ms for one in receipts(metadata) if one.id], default=None)


def origins(metadata: Metadata) -> list[tuple[str, str]]:
    """Return the topics and ids under which an element's input entries were read."""
    if type(metadata) is LazyReceipts:
        return [entry.origin for entry in metadata.entries]
    return [(one.topic, one.id) for one in receipts(metadata) if one.id]


def in_full(metadata: Metadata) -> Any:
    """Return metadata with receipts, as streamz passes them on, in place of `LazyReceipts`."""
    return metadata.metadata() if type(metadata) is LazyReceipts else metadata


class LazyReceipts:
    """The receipts of the element that a source is emitting, created at the first use.

    Most elements pass a fused run in one call and need no receipt, because no work on them remains after the call.
    It takes the place of the metadata, but only within fused runs (`tasks.pipeline.fusion`).

    entries   the element's input entries; empty between elements
    made      their receipts, once created
    """

    __slots__ = ("_make", "entries", "made")

    def __init__(self, make: Callable[[Sequence[Entry]], list[Receipt]]) -> None:
        self._make = make
        self.entries: Sequence[Entry] = ()
        self.made: list[Receipt] = []

    def metadata(self) -> list[dict[str, Any]]:
        """Return the metadata that streamz passes on with the element; creates the receipts."""
        if not self.made:
            self.made = self._make(self.entries)
        return [{"ref": receipt} for receipt in self.made]
