"""The hand-over between the two threads of a run: entries go to the graph's thread, finished entries come back."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

from tasks.pipeline.part_letters import PartLetter
from tasks.pipeline.receipts import Receipt
from tasks.reservoir.entry import Entry
from tasks.state.cut import Cut, Stored

__all__ = ["Finished", "HandOver", "Origin"]

Origin = tuple[str, str]
"""The topic and the id that an entry was read under."""


@dataclass(slots=True)
class Finished:
    """Entries that the graph has finished since the last look; the reader acknowledges them together.

    passed    entries that passed the graph in one call, so that no receipt was made
    receipts  the receipts of all others, failed ones included
    """

    passed: list[Origin] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)

    def add(self, more: "Finished") -> None:
        """Add entries that finished later."""
        self.passed += more.passed
        self.receipts += more.receipts

    def clear(self) -> None:
        """Forget all entries."""
        self.passed.clear()
        self.receipts.clear()


class HandOver:
    """Carries batches of entries to one pipeline's graph, and carries finished entries back.

    The only object that both threads of a run change. It needs no lock: each queue is a deque that one thread appends to
    and the other takes from, and all other values are replaced as a whole. A run has one hand-over per pipeline.

    loop   the tornado loop of the graph
    """

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._batches: deque[list[Entry]] = deque()
        self._arrived = asyncio.Event()
        self._has_room = threading.Event()
        self._passed: deque[Origin] = deque()
        self._finished: deque[Receipt] = deque()
        self._letters: deque[PartLetter] = deque()
        self._cuts: deque[Cut] = deque()
        self.cut_seconds = 0.0
        """How long the last cut took to be stored. The reader's thread sets it."""
        self.is_caught_up = False
        """Whether the last read found no entry. The reader's thread sets it."""
        self._state: Stored | None = None
        self._flush: Future[bool] | None = None
        self._stopping = threading.Event()
        self._emission_ended = threading.Event()
        self.at_end: Callable[[], None] = lambda: None
        """Called in the graph's thread once nothing more is read."""
        self.is_abandoned = False
        """Whether the reader ended without waiting for the graph. The reader's thread sets it."""
        self.failure: BaseException | None = None
        """The first error that ends the run."""
        self._time: int | None = None
        self.due: int | None = None
        """When a node may emit because time passes, in ms since the epoch; None: never. The graph's thread sets it."""
        self.letter_fields: Mapping[str, str] = {}
        """Fields that describe the pipeline in each dead letter. The graph's thread replaces the mapping."""
        # Bound methods, because these are called for every entry.
        self.is_stopping: Callable[[], bool] = self._stopping.is_set
        """Return whether the run is to end. Any thread."""
        self.report_passed: Callable[[Origin], None] = self._passed.append
        """Report an entry that passed the graph in one call. The graph's thread."""
        self.report_all_passed: Callable[[Iterable[Origin]], None] = self._passed.extend
        """Report the entries of a list that passed the graph in one call. The graph's thread."""

    # --- any thread ---

    def stop(self) -> None:
        """Let the run end."""
        self._stopping.set()

    def fail(self, error: BaseException) -> None:
        """Let the run end with `error`, unless an earlier one ends it."""
        if self.failure is None:
            self.failure = error
        self.stop()

    def raise_failure(self) -> None:
        """Raise the error that ends the run, if there is one."""
        if self.failure is not None:
            raise self.failure

    def report_finished(self, receipt: Receipt) -> None:
        """Report an entry that nothing holds any more. Runs in the thread that released it last: nearly always the graph's."""
        self._finished.append(receipt)

    # --- the reader's thread ---

    @property
    def backlog(self) -> int:
        """The number of batches that the graph's thread has not taken."""
        return len(self._batches)

    def put(self, entries: list[Entry]) -> None:
        """Hand over a batch to the graph's thread."""
        self.is_caught_up = False
        self._batches.append(entries)
        self.wake()

    def note_caught_up(self) -> None:
        """Report that a read found no entry: what is to be stored need not wait for more."""
        if not self.is_caught_up:
            self.is_caught_up = True
            self.wake()

    def put_time(self, ms: int) -> None:
        """Report that all entries with ids older than this were handed over, in ms since the epoch."""
        self._time = ms
        self.wake()

    def wait_for_room(self, seconds: float) -> bool:
        """Wait until the graph's thread takes a batch; return False if it took none in time."""
        has_room = self._has_room.wait(seconds)
        self._has_room.clear()
        return has_room

    def wait_until_stopping(self, seconds: float) -> bool:
        """Wait until the run is to end; return False if the time ran out first."""
        return self._stopping.wait(seconds)

    def take_finished(self) -> Finished:
        """Take the entries that have finished by now."""
        return Finished(_take_all(self._passed), _take_all(self._finished))

    def take_letters(self) -> list[PartLetter]:
        """Take the letters of parts of entries; those of all entries that the last `take_finished` returned are among them."""
        return _take_all(self._letters)

    def put_state(self, state: Stored) -> None:
        """Hand over the stored state, before the first batch."""
        self._state = state
        self.wake()

    @property
    def next_cut(self) -> Cut | None:
        """The oldest cut that is to be stored."""
        return self._cuts[0] if self._cuts else None

    def drop_cut(self) -> None:
        """Drop the oldest cut, which is stored, and let the graph's thread take the next."""
        self._cuts.popleft()
        self.wake()

    def flush_nodes(self, seconds: float) -> bool:
        """Have the graph's thread flush its nodes; return whether all could be flushed.

        Returns False, too, if the graph's thread has not answered in time; the next call waits for the same answer.
        """
        if self._flush is None:
            self._flush = Future()
            self.wake()
        wait([self._flush], seconds)
        if not self._flush.done():
            return False
        answer, self._flush = self._flush, None
        return answer.result()

    def abandon(self) -> None:
        """Let the run end without a flush of the nodes: what they hold is redelivered to another consumer."""
        self.is_abandoned = True
        self.end_reading()

    def end_reading(self) -> None:
        """Let the run end, and wake the graph's thread so that it notices."""
        self.stop()
        self._loop.add_callback(self.at_end)
        self.wake()

    def wait_for_emission_end(self, seconds: float) -> bool:
        """Wait until the graph's thread emits nothing more; return False if the time ran out first."""
        return self._emission_ended.wait(seconds)

    @property
    def has_emission_ended(self) -> bool:
        """Whether the graph's thread emits nothing more."""
        return self._emission_ended.is_set()

    def wake(self) -> None:
        """Let the graph's thread look for work."""
        self._loop.add_callback(self._arrived.set)

    # --- the graph's thread ---

    @property
    def has_state(self) -> bool:
        """Whether the reader has loaded a state that was not taken yet."""
        return self._state is not None

    def take_state(self) -> Stored | None:
        """Take the stored state, if the reader has just loaded it."""
        state, self._state = self._state, None
        return state

    def put_letter(self, letter: PartLetter) -> None:
        """Hand over the letter of a part of an entry, before the entry is finished."""
        self._letters.append(letter)

    def put_cut(self, cut: Cut) -> None:
        """Hand over a cut to be stored."""
        self._cuts.append(cut)

    @property
    def is_cut_under_way(self) -> bool:
        """Whether a cut is not stored yet."""
        return bool(self._cuts)

    def take(self) -> list[Entry]:
        """Take the oldest batch; an empty list if there is none."""
        if not self._batches:
            return []
        entries = self._batches.popleft()
        self._has_room.set()
        return entries

    def take_time(self) -> int | None:
        """Take the time up to which all entries were handed over, if the reader has reported another. Follows the last `take`."""
        ms, self._time = self._time, None
        return ms

    def answer_flush(self, flush: Callable[[], bool]) -> bool:
        """Call `flush` and hand its answer over if the reader waits for one; return whether it does."""
        if (asked := self._flush) is None or asked.done():
            return False
        try:
            asked.set_result(flush())
        except Exception as error:  # noqa: BLE001 - the reader raises it
            asked.set_exception(error)
        return True

    async def wait_for_work(self, seconds: float | None = None) -> None:
        """Wait until the reader hands over a batch, asks for a flush or ends, or the time has run out."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), seconds)
        self._arrived.clear()

    def end_emission(self) -> None:
        """Report that nothing more is emitted."""
        self.stop()
        self._emission_ended.set()


def _take_all(queue: deque[Any]) -> list[Any]:
    """Take the elements that a queue holds by now; another thread may append more."""
    return [queue.popleft() for _ in range(len(queue))]
