"""The reader's side of a run: reads ahead, acknowledges and keeps the lease, in a thread of its own."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable

import redis

from tasks.base.logs import get_logger
from tasks.errors import StateConflictError
from tasks.group.consumer import Consumer
from tasks.group.delivery import Undecodable
from tasks.group.ownership import Ownership
from tasks.nodes.acknowledger import Acknowledger
from tasks.nodes.hand_over import HandOver
from tasks.nodes.in_flight import InFlight
from tasks.nodes.isolation import Isolation
from tasks.pipeline.retrying import Retried
from tasks.reservoir.entry import Entry
from tasks.reservoir.keys import retried_topic
from tasks.reservoir.outages import Outages
from tasks.reservoir.retrying import RetryingNotes
from tasks.state.store import StateStore

__all__ = ["Reader"]

logger = get_logger(__name__)

_BLOCK_MS = 100
# Of the first read after a busy step, so that the last of many entries are acknowledged soon. Each later one may block twice as
# long: what the graph finishes meanwhile waits no longer than the graph has worked.
_SHORT_BLOCK_MS = 5
# Seconds between acknowledgements under load: each costs a round trip, and waits for the graph's thread to release the
# interpreter.
_FLUSH = 0.01
# A pipeline that waits for nothing will finish no more entries after this many seconds without an acknowledgement.
_SETTLED = 0.3


class Reader:
    """Reads entries for the graph's thread and settles the entries that come back. All methods run in the reader's thread.

    grace    seconds for which a stop waits for entries in flight
    store    where the state of the graph is kept, if it is
    retried  returns the calls that the graph tries again
    """

    def __init__(
        self,
        consumer: Consumer,
        hand_over: HandOver,
        in_flight: InFlight,
        acknowledger: Acknowledger,
        isolation: Isolation,
        *,
        grace: float,
        ownership: Ownership | None = None,
        store: StateStore | None = None,
        retried: Callable[[], Iterable[Retried]] = tuple,
    ) -> None:
        self._consumer = consumer
        self._hand_over = hand_over
        self._in_flight = in_flight
        self._acknowledger = acknowledger
        self._isolation = isolation
        self._grace = grace
        self._ownership = ownership
        self._store = store
        self._retried = retried
        self._retrying = RetryingNotes(consumer.client, consumer.group, consumer.membership.name)
        self.is_owner = False
        """Whether this consumer owns what it reads. Any thread may read it."""
        self._outages = Outages(
            consumer.group,
            longest_pause=consumer.membership.lease_ttl / 4,
            wait=hand_over.wait_until_stopping,
            explain=consumer.explained if store is None else store.explained,
        )
        self.known_up_to: Callable[[], int] = consumer.known_up_to
        """Returns up to which id, as a time, all entries were returned by the consumer."""
        self._ahead_ms: float | None = None
        self._next_flush = 0.0
        self._was_busy = False
        self._block_ms = _BLOCK_MS
        self._progress = self._seen = (0, 0)

    def run(self) -> None:
        """Take steps until the run is to end, then let the graph finish the entries in flight, and leave the group.

        raises    LeaseLostError: other consumers took this one for dead
        """
        try:
            while not self._hand_over.is_stopping():
                self._outages.pass_through(self.step)
            self._hand_over.end_reading()
            self._drain()
        except StateConflictError:
            self._hand_over.abandon()
            with contextlib.suppress(redis.RedisError):
                self._consumer.leave()  # so that the next run need not wait for the lease
            raise
        except BaseException:
            self._hand_over.abandon()
            raise
        finally:
            self._consumer.disconnect()
        self._acknowledger.end()

    def step(self) -> None:
        """Settle finished entries if it is time to, then read once, or wait briefly for a reason to.

        raises    redis.RedisError: take another step later
        """
        if not self.is_admitted():
            self._hand_over.wait_until_stopping(_BLOCK_MS / 1000)
            return
        is_isolating = self._isolation.is_on
        if is_isolating or not self._was_busy or time.monotonic() >= self._next_flush:
            self.settle()
            self._next_flush = time.monotonic() + _FLUSH
        if is_isolating:
            if self._isolation.update():
                self._hand_over.wait_until_stopping(0.001)
        elif self._hand_over.backlog > (0 if self._consumer.is_searching_poison else 1):
            if not self._hand_over.wait_for_room(_BLOCK_MS / 1000):
                self._consumer.fetch()
        elif self._consumer.is_through:
            self._stop_when_done()
        else:
            self._read_on()

    def is_admitted(self) -> bool:
        """Return whether this consumer may read: the only one, where state is kept or topics are partitioned."""
        if self.is_owner or self._ownership is None:
            return True
        self._consumer.renew()
        if not self._ownership.acquire(self._consumer.topics):
            return False
        if self._store is not None:
            self._hand_over.put_state(self._store.load())
        self.is_owner = True  # not before: after a lost reply, it is loaded again
        return True

    def settle(self) -> None:
        """Renew the lease, acknowledge finished entries, and note how many failed calls are tried again."""
        self._consumer.renew()
        self._acknowledger.flush()
        self._retrying.update(self._counts_of_retried())
        if self._store is not None and self._in_flight.progress != self._seen:
            self._seen = self._in_flight.progress
            self._hand_over.wake()  # a timer may have emitted something, which is to be stored soon

    def look_at_clock(self) -> None:
        """Report the time to the graph if a node waits for it, and it may have come. Call it when no entry was read."""
        if (due := self._hand_over.due) is None:
            return
        local = 1000 * time.monotonic()
        if self._ahead_ms is not None and local + self._ahead_ms < due:
            return
        now = self.known_up_to()
        self._ahead_ms = now - local
        if now >= due:
            self._hand_over.put_time(now)

    def close(self) -> None:
        """Acknowledge finished entries, give all others back and leave the group."""
        self.settle()
        self._retrying.update({})
        self._consumer.leave()

    def _counts_of_retried(self) -> Counter[str]:
        """Return how many calls are tried again by the topic of their entries; the first topic for elements without one."""
        group, first = self._consumer.group, self._consumer.topics[0]
        return Counter(retried_topic(one.topic, group) or one.topic or first for one in self._retried())

    def _read_on(self) -> None:
        read = self._read()
        if entries := self._acknowledger.put_aside(read):
            self._hand_over.put(entries)
        if read and self._consumer.returned_poison_candidates:
            self._isolation.begin(read)

    def _read(self) -> list[Entry | Undecodable]:
        began, block_ms = time.monotonic(), self._block_ms
        read = self._consumer.step(block_ms, ahead=True)
        if not read:  # a step may return early, for example after restoring its group: no busy loop
            self._hand_over.note_caught_up()
            self.look_at_clock()
            self._hand_over.wait_until_stopping(began + block_ms / 1000 - time.monotonic())
        self._was_busy = bool(read)
        self._block_ms = _SHORT_BLOCK_MS if read else min(2 * block_ms, _BLOCK_MS)
        return read

    def _stop_when_done(self) -> None:
        """Let the run end once all entries are done, or are only kept for elements that will not come."""
        progress, self._progress = self._progress, self._in_flight.progress
        self.look_at_clock()
        if self._consumer.held > len(self._in_flight) or self._progress != progress:
            self._hand_over.wait_until_stopping(_BLOCK_MS / 1000)
        elif self._hand_over.flush_nodes(_BLOCK_MS / 1000) and not self._in_flight.is_busy:
            self._hand_over.stop()

    def _drain(self) -> None:
        """Wait until nothing in flight moves on, acknowledge finished entries and give the rest back.

        Entries in a window never move on. The wait is bounded by the grace period; the lease is renewed all the time.
        """
        end = time.monotonic() + self._grace
        self._outages.pass_through(self.settle)
        self._hand_over.wait_for_emission_end(min(1.0, self._grace))
        held, since = -1, time.monotonic()
        while (now := time.monotonic()) < end and self._consumer.held:
            has_ended = self._hand_over.has_emission_ended
            self._outages.pass_through(self.settle)
            if self._consumer.held != held or self._in_flight.is_awaited or not has_ended:
                held, since = self._consumer.held, now
            elif now - since > _SETTLED:
                break
            time.sleep(_SETTLED / 10)
        if not self._hand_over.has_emission_ended:
            logger.warning(
                "group %r: the pipeline is still busy after %g s; its entries are given back",
                self._consumer.group, self._grace,
            )  # fmt: skip
            self._hand_over.abandon()
        if not self._outages.pass_through(self.close):
            logger.warning(
                "group %r: entries in flight are redelivered when the lease has expired", self._consumer.group
            )
