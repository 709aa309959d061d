"""The one door through which a run's entries leave the group: acknowledged, or moved to the dead letters."""

import itertools
import time
from collections import defaultdict, deque

from tasks.base.logs import get_logger
from tasks.base.repeated_warnings import Repeated
from tasks.group.consumer import Consumer
from tasks.group.delivery import Undecodable
from tasks.nodes.emitter import OnError
from tasks.nodes.hand_over import Finished, HandOver
from tasks.pipeline.part_letters import PartLetter
from tasks.pipeline.receipts import Receipt
from tasks.reservoir.entry import Entry
from tasks.state.store import StateStore

__all__ = ["Acknowledger"]

logger = get_logger(__name__)


class Acknowledger:
    """Acknowledges finished entries, and dead-letters those that failed or cannot be decoded.

    All methods run in the reader's thread. An entry stays here until Redis has answered, so that `flush` can be called
    again after an outage.

    on_error   'dead_letter', or 'stop': failed entries stay pending
    store      where the state of the graph is kept, if it is
    """

    def __init__(
        self, consumer: Consumer, hand_over: HandOver, *, on_error: OnError, store: StateStore | None = None
    ) -> None:
        self._consumer = consumer
        self._store = store
        self._hand_over = hand_over
        self._on_error = on_error
        self._undecodable: deque[Undecodable] = deque()
        self._failed: deque[Receipt] = deque()
        self._done = Finished()
        self._letters: deque[PartLetter] = deque()
        self._warn = Repeated(logger)

    def put_aside(self, read: list[Entry | Undecodable]) -> list[Entry]:
        """Keep the entries that cannot be decoded for the next flush; return the others."""
        if Undecodable not in map(type, read):
            return read  # type: ignore[return-value] - entries only
        self._undecodable += [bad for bad in read if isinstance(bad, Undecodable)]
        return [entry for entry in read if isinstance(entry, Entry)]

    def flush(self) -> None:
        """Dead-letter the entries that failed or cannot be decoded, then acknowledge the finished ones.

        Where state is kept, entries leave with the cut that covers them.
        """
        self._take_finished()
        self._dead_letter_undecodable()
        if self._store is not None:
            self._store_cuts(self._store)
            return
        self._dead_letter_parts()
        self._dead_letter_failed()
        done: defaultdict[str, list[str]] = defaultdict(list)
        receipts = self._done.receipts
        for topic, id_ in itertools.chain(self._done.passed, ((one.topic, one.id) for one in receipts)):
            done[topic].append(id_)
        if done:
            self._consumer.ack_all(done, with_results={one.id for one in receipts if one.has_results})
        self._done.clear()  # only now: after an outage, all of them are sent again

    def end(self) -> None:
        """Log the warnings that were only counted so far."""
        self._warn.flush()

    def _store_cuts(self, store: StateStore) -> None:
        """Store the cuts that the graph's thread has taken."""
        while (cut := self._hand_over.next_cut) is not None:
            began = time.monotonic()
            if not store.commit(cut):
                return
            self._hand_over.cut_seconds = time.monotonic() - began
            self._hand_over.drop_cut()

    def _take_finished(self) -> None:
        finished = self._hand_over.take_finished()
        failed = [one for one in finished.receipts if one.failure is not None]
        if failed:
            finished.receipts = [one for one in finished.receipts if one.failure is None]
            if self._on_error == "dead_letter":
                self._failed += failed
        self._done.add(finished)
        self._letters += self._hand_over.take_letters()

    def _dead_letter_undecodable(self) -> None:
        while self._undecodable:
            bad = self._undecodable[0]
            self._consumer.dead_letter(*bad.origin, node="decode", exception=repr(bad.error))
            self._undecodable.popleft()  # each at once: if a later one must be sent again, this one must not
            self._warn(
                f"group {self._consumer.group!r}: entries that cannot be decoded became dead letters",
                detail=str(bad.error),
            )

    def _dead_letter_parts(self) -> None:
        while self._letters:
            part = self._letters[0]
            self._consumer.dead_letter_part(part.topic, part.id, part.fields, part.failure.described())
            self._letters.popleft()

    def _dead_letter_failed(self) -> None:
        while self._failed:
            failed = self._failed[0]
            assert failed.failure is not None  # or it would not be among these
            self._consumer.dead_letter(failed.topic, failed.id, **failed.failure.described())
            self._failed.popleft()
