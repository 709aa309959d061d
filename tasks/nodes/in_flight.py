"""The entries that a graph holds: which ones, whether work is being done with them, and how far they have come."""

import itertools
from collections.abc import Callable, Sequence

from tasks.nodes.hand_over import Origin
from tasks.pipeline.guard import Secured
from tasks.pipeline.receipts import FAILED_BEFORE, LazyReceipts, Receipt
from tasks.reservoir.entry import Entry
from tasks.reservoir.fence import Fence

__all__ = ["InFlight"]


class InFlight:
    """The entries that a graph holds. The graph's thread changes the set; any thread may read it.

    fence     goes with each receipt
    finished  called with each receipt that nothing holds any more
    failed    called with each receipt at its first failure
    """

    def __init__(
        self,
        secured: Secured,
        fence: Fence,
        *,
        finished: Callable[[Receipt], None],
        failed: Callable[[Receipt], None],
    ) -> None:
        self._secured = secured
        self._fence = fence
        self._finished = finished
        self._failed = failed
        self._open: dict[Receipt, None] = {}  # in order of arrival, in which those that have failed become dead letters
        self._settled: set[Receipt] = set()
        self.expect: Callable[[Origin], object] = lambda _: None
        """Called with each entry that an earlier life of the graph got."""
        self.emitting = LazyReceipts(self._make)
        """The entries of the element that is being emitted."""

    def __len__(self) -> int:
        return len(self._open) + (0 if self.emitting.made else len(self.emitting.entries))

    @property
    def receipts(self) -> frozenset[Receipt]:
        """The receipts of these entries, except those of an element being emitted for which none were made yet."""
        return frozenset(self._open)

    @property
    def at_rest(self) -> set[Origin]:
        """The entries that nodes only keep for later elements."""
        return {(receipt.topic, receipt.id) for receipt in self.receipts if receipt.is_at_rest}

    @property
    def is_busy(self) -> bool:
        """Whether the graph is working on an entry, beyond keeping it for later elements."""
        return bool(self.emitting.entries) or not all(receipt.is_at_rest for receipt in self.receipts)

    @property
    def is_quiet(self) -> bool:
        """Whether a cut can be taken: no work is under way, and all that the graph holds is part of what its nodes remember."""
        if self._secured.waiting or self.emitting.entries:
            return False
        if any(meter.keeps for meter in self._secured.meters if not meter.remembers):
            return False
        return all(receipt.is_at_rest for receipt in itertools.chain(self._open, self._settled))

    @property
    def is_awaited(self) -> bool:
        """Whether asynchronous work is under way in some node."""
        return self._secured.waiting > 0

    @property
    def progress(self) -> tuple[int, int]:
        """Numbers that change whenever an entry moves on: entries in flight, and elements received by all nodes."""
        return len(self), sum(meter.received for meter in list(self._secured.meters))

    def settle(self) -> list[Receipt]:
        """Return the receipts that nodes keep; from now on these entries are not in flight, because a cut covers them."""
        kept = list(self._open)
        for receipt in kept:
            receipt.is_settled = True
        self._settled.update(kept)
        self._open.clear()
        return kept

    def ghost(self, topic: str, id: str, has_failed: bool = False, time_ms: int = 0) -> Receipt:  # noqa: A002, FBT001, FBT002
        """Return a new receipt of an entry that a cut covers already; the caller holds it once."""
        receipt = Receipt(topic, id, fence=self._fence, done=self._finish, failed=self._failed, time_ms=time_ms)
        receipt.is_settled = True
        self.expect((topic, id))
        if has_failed:  # and is a dead letter
            receipt.failure = FAILED_BEFORE
        self._settled.add(receipt)
        return receipt

    def _make(self, entries: Sequence[Entry]) -> list[Receipt]:
        fence, finish, failed = self._fence, self._finish, self._failed
        made = [
            Receipt(*entry.origin, fence=fence, done=finish, failed=failed, time_ms=entry.time_ms) for entry in entries
        ]
        for entry, receipt in zip(entries, made, strict=True):
            if entry.id != receipt.id:  # a replayed dead letter
                receipt.pushed_as = (entry.topic, entry.id)
        self._open.update(dict.fromkeys(made))
        return made

    def _finish(self, receipt: Receipt) -> None:
        if receipt.is_settled:
            self._settled.discard(receipt)
            return
        self._open.pop(receipt, None)
        self._finished(receipt)
