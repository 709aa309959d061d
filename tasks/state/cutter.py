"""The graph's side of kept state: decides when to take a cut, and takes it between two elements."""

import asyncio
import time
from collections.abc import Callable, Iterable
from math import inf
from typing import Protocol

from streamz import Stream

from tasks.base.ids import id_numbers
from tasks.base.logs import get_logger
from tasks.errors import PipelineError
from tasks.pipeline.guard import Secured
from tasks.pipeline.part_letters import PartLetter
from tasks.pipeline.receipts import FAILED_BEFORE, Receipt
from tasks.state.cut import Cut, Origin, Outbox, Stored
from tasks.state.memory import Memory
from tasks.state.remembering import memories

__all__ = ["Cutter", "HandOver", "InFlight"]

logger = get_logger(__name__)

# Under load, a cut comes after so many seconds, entries or bytes of results, whichever is first. While no entry waits, it comes at once.
_INTERVAL = 1.0
_MAX_ENTRIES = 20_000
_MAX_RESULT_BYTES = 8 << 20
# Cuts take at most one part in so many of the time.
_SHARE = 10
# By how much the time of the quickest cut is raised with each cut.
_GROWTH = 1.1
_POLL = 0.002
# A node that is at work for longer than so many seconds is named in the log.
_SLOW = 30.0


class InFlight(Protocol):
    """The entries that the graph holds."""

    @property
    def is_quiet(self) -> bool:
        """Whether all that the graph holds is part of what its nodes remember."""
        ...

    def settle(self) -> list[Receipt]:
        """Return the receipts of entries that nodes keep, which are not in flight any more."""
        ...

    def ghost(self, topic: str, id: str, has_failed: bool = ..., time_ms: int = ...) -> Receipt:  # noqa: A002, FBT001
        """Return a new receipt of an entry that an earlier cut covers."""
        ...


class HandOver(Protocol):
    """Carries cuts to the reader's thread, which stores them."""

    @property
    def is_cut_under_way(self) -> bool:
        """Whether a cut is not stored yet."""
        ...

    @property
    def cut_seconds(self) -> float:
        """How long the last cut took to be stored."""
        ...

    @property
    def is_caught_up(self) -> bool:
        """Whether the last read found no entry."""
        ...

    def put_cut(self, cut: Cut) -> None:
        """Hand over a cut to be stored."""


class Cutter:
    """Takes cuts of a graph. All methods run in the graph's thread.

    One cut at a time is under way to Redis. Until it is stored, entries go on, and the next cut waits.

    max_bytes    of the state of all nodes
    """

    def __init__(
        self, secured: Secured, in_flight: InFlight, hand_over: HandOver, *, group: str, max_bytes: int
    ) -> None:
        self._secured = secured
        self._in_flight = in_flight
        self._hand_over = hand_over
        self._group = group
        self._max_bytes = max_bytes
        self._memories: dict[Stream, Memory] = {}
        self._version = -1
        self._is_loaded = False
        self._state: Stored = {}
        self._passed: list[Origin] = []
        self._finished: list[Receipt] = []
        self._failed: list[Receipt] = []
        self._parts: list[PartLetter] = []
        self._received = -1
        self._last = time.monotonic()
        self._last_entries = 0
        self._pause = 0.0
        self._least_seconds = inf
        self._is_broken = False
        self.sizes: list[tuple[str, int, int]] = []
        """Name, number of fields and bytes of each node's state, as of the last cut. Any thread may read it."""
        self.unclaimed: list[str] = []
        """Names of stored states that no node of this pipeline has."""
        self.outbox = secured.outbox = Outbox()
        secured.mark = lambda: in_flight.ghost("", "")
        # Bound methods, because these are called for every entry.
        self.report_passed: Callable[[Origin], None] = self._passed.append
        """Note an entry that passed the graph in one call."""
        self.report_finished: Callable[[Receipt], None] = self._finished.append
        """Note an entry that nothing holds any more."""

    def report_all_passed(self, origins: Iterable[Origin]) -> None:
        """Note the entries of a list that passed the graph in one call."""
        self._passed.extend(origins)

    def report_failed(self, receipt: Receipt) -> None:
        """Note the failure of an entry that an earlier cut covers; those of others are seen at the next cut."""
        if receipt.is_settled and receipt.id:
            self._failed.append(receipt)

    def put_letter(self, letter: PartLetter) -> None:
        """Store the letter of a part of an element with the next cut."""
        self._parts.append(letter)

    def break_off(self) -> None:
        """Take no more cuts: the run ends, and all entries since the last one are redelivered."""
        self._is_broken = True

    # --- state ---

    def load(self, state: Stored, reachable: Iterable[Stream]) -> None:
        """Give the nodes the state that was stored.

        raises    PipelineError: a node is another one than that whose state was stored
        """
        self._state = dict(state)
        self._is_loaded = True
        self.adopt(reachable)
        self.unclaimed = sorted(set(state) - {one.name for one in self._memories.values()})
        if self.unclaimed:
            logger.warning(
                "group %r: no node of this pipeline has the name of a stored state: %s; such a state stays stored; delete it with "
                "`sluice state`, or rename the node back",
                self._group, ", ".join(map(repr, self.unclaimed)),
            )  # fmt: skip

    def adopt(self, reachable: Iterable[Stream]) -> None:
        """Take in the nodes that are new, with their stored state."""
        if not self._is_loaded or self._version == self._secured.fusion.version:
            return
        self._version = self._secured.fusion.version
        ghosts: dict[Origin, Receipt] = {}

        def ghost(topic: str, id_: str, has_failed: bool, time_ms: int | None = None) -> Receipt:  # noqa: FBT001
            if (topic, id_) not in ghosts:
                ghosts[topic, id_] = self._in_flight.ghost(
                    topic, id_, has_failed, id_numbers(id_)[0] if time_ms is None else time_ms
                )
            elif has_failed:  # which another node has stored before the failure
                ghosts[topic, id_].failure = FAILED_BEFORE
            return ghosts[topic, id_]

        for memory in memories(reachable):
            if memory.node in self._memories:
                continue
            self._memories[memory.node] = memory
            memory.node.meter.remembers = True
            if memory.name in self._state:
                fingerprint, fields = self._state[memory.name]
                if fingerprint != memory.fingerprint:
                    msg = (
                        f"node {memory.name!r} of group {self._group!r}: expected the node whose state was stored, {fingerprint}, got "
                        f"{memory.fingerprint}; give the changed node another name (stream_name='...'), or delete its state: "
                        "sluice state OUTLET --reset NODE"
                    )
                    raise PipelineError(msg)
                memory.load(fields, ghost)
        for receipt in ghosts.values():
            receipt.release()  # what nodes keep, they hold by now

    # --- when ---

    @property
    def is_dirty(self) -> bool:
        """Whether anything has happened since the last cut. Never before the state is loaded: the run waits for its owner to end."""
        return self._is_loaded and bool(
            self._passed or self._finished or self._failed or self.outbox.results or self._received != self._progress
        )

    @property
    def wait(self) -> float:
        """The seconds until a cut may be taken while no entry waits; small while the graph is not quiet."""
        if self._hand_over.is_cut_under_way:
            return _INTERVAL  # its end wakes the graph's thread
        if not self._in_flight.is_quiet:
            return _POLL
        # A graph that is faster than the reads has no entry left after each of them: without this pause, it would take a cut there.
        # A cut of fewer entries than the last one takes less time.
        expected = self._hand_over.cut_seconds * min(1.0, (1 + self._entries) / (1 + self._last_entries))
        if self._hand_over.is_caught_up:
            # Each entry is to be stored sooner or later. What a cut costs besides is what the quickest one took.
            expected = min(expected, self._least_seconds)
        pause = max(self._pause, min(_INTERVAL, _SHARE * expected))
        return max(0.0, self._last + pause - time.monotonic())

    def is_due(self, now: float) -> bool:
        """Return whether to take a cut although entries wait."""
        return now - self._last > max(_INTERVAL, self._pause) or self._is_full

    async def cut_under_load(self, is_stopping: Callable[[], bool]) -> None:
        """Take a cut once the graph is quiet, unless one is under way and there is room for more until the next."""
        if self._hand_over.is_cut_under_way and not self._is_full:
            return
        began, is_named = time.monotonic(), False
        for begin_to_write in [
            call for meter in self._secured.meters if (call := getattr(meter.node, "before_cut", None))
        ]:
            begin_to_write()
        while self._hand_over.is_cut_under_way or not self._in_flight.is_quiet:
            if is_stopping() or self._is_broken:
                return
            await asyncio.sleep(_POLL)
            if not is_named and time.monotonic() - began > _SLOW and (busy := self._secured.busy_nodes):
                is_named = True
                logger.warning(
                    "group %r: no state can be stored while %s is at work; entries wait",
                    self._group, ", ".join(map(repr, busy)),
                )  # fmt: skip
        self.cut()

    def try_cut(self) -> bool:
        """Take a cut if there is reason to and the graph is quiet; return whether nothing is left to cut."""
        if not self.is_dirty or self._is_broken:
            return True
        if self._hand_over.is_cut_under_way or not self._in_flight.is_quiet:
            return False
        self.cut()
        return not self.is_dirty

    # --- what ---

    def cut(self) -> None:
        """Take a cut and hand it over.

        raises    PipelineError: a state cannot be stored, or is too large
        """
        if self._is_broken:
            return
        began = time.thread_time()  # not the time that passes, of which other programs take their part
        # It grows, because the state may.
        self._least_seconds = min(_GROWTH * self._least_seconds, self._hand_over.cut_seconds or inf)
        self._last_entries = self._entries
        self._received = self._progress
        finished, self._finished[:] = list(self._finished), []
        passed, self._passed[:] = list(self._passed), []
        receipts = finished + self._in_flight.settle()
        failed, self._failed = [*self._failed, *(one for one in receipts if one.failure is not None)], []
        if failed:
            for memory in self._memories.values():
                memory.note_failures(failed)
        changes = [change for memory in self._memories.values() if (change := memory.change()) is not None]
        if (size := sum(memory.size for memory in self._memories.values())) > self._max_bytes:
            largest = max(self._memories.values(), key=lambda memory: memory.size)
            msg = (
                f"group {self._group!r}: expected a state of at most {self._max_bytes:,} bytes, got {size:,}, most of them in node "
                f"{largest.name!r} ({largest.size:,}); nothing was acknowledged since the last stored state; let keys expire, keep "
                "less in the node, or raise max_state"
            )
            raise PipelineError(msg)
        self.sizes = [(memory.name, memory.fields, memory.size) for memory in self._memories.values()]
        done = passed + [(one.topic, one.id) for one in receipts if one.failure is None]
        parts, self._parts = self._parts, []
        recorded = {one.id for one in receipts if one.has_results}
        cut = Cut(done, failed, self.outbox.take(), changes, recorded, parts)
        self._last = time.monotonic()
        self._pause = _SHARE * (time.thread_time() - began)
        if cut:
            self._hand_over.put_cut(cut)

    @property
    def _is_full(self) -> bool:
        """Whether so much has happened since the last cut that entries have to wait for the next."""
        return self.outbox.size > _MAX_RESULT_BYTES or self._entries > _MAX_ENTRIES

    @property
    def _entries(self) -> int:
        """How many entries the next cut covers, besides those that nodes keep."""
        return len(self._passed) + len(self._finished)

    @property
    def _progress(self) -> int:
        return sum(meter.received for meter in self._secured.meters)
