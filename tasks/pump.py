"""A pump on its grid: ticks, threads, timeouts and order. Plain Python, nothing of Prefect."""

import asyncio
import contextvars
import inspect
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import redis

from tasks.errors import PumpError, SettingsError, TopicFullError
from tasks.pusher import Job, Pusher
from tasks.repeated import Repeated
from tasks.ticks import Beat, tick_at, time_of

__all__ = ["Pumping", "Summary", "as_entries", "synchronous"]

Entries = list[Mapping[str, Any]]

_KEPT = 10_000
# How long a run waits, after its end, for a Redis that is away.
_LAST_WAIT = 10.0


def as_entries(value: Any, *, name: str) -> Entries:
    """Return what a pump returned as a list of entries, each a mapping of fields.

    value    a mapping (one entry), a DataFrame (one entry with a field `name`), an iterable of those
             (several entries), or None (no entry)
    raises   PumpError: anything else
    """
    match value:
        case None:
            return []
        case pd.DataFrame():
            return [{name: value}]
        case Mapping():
            return [value]
        case str() | bytes():
            pass
        case Iterable():
            return [entry for item in value for entry in _entry(item, name=name)]
    raise PumpError(_not_entries(value, name))


def synchronous(pump: Callable[[], Any]) -> Callable[[], Any]:
    """Return a pump that returns what `pump` does, awaited if that is async; it may be a partial."""
    is_async = inspect.iscoroutinefunction(inspect.unwrap(pump)) or inspect.iscoroutinefunction(
        getattr(pump, "func", None)
    )
    return (lambda: asyncio.run(pump())) if is_async else pump


def _entry(item: Any, *, name: str) -> Entries:
    if isinstance(item, pd.DataFrame | Mapping):
        return as_entries(item, name=name)
    raise PumpError(_not_entries(item, name))


def _not_entries(value: Any, name: str) -> str:
    return (
        f"pump {name!r}: expected a mapping of fields, a DataFrame, several of those, or None, "
        f"got {type(value).__name__}; nothing was pushed; return {{'field': value}}"
    )


@dataclass(slots=True)
class Summary:
    """What came of a run's ticks.

    missed     by reason: no thread was free, the run came too late, another run had them, the topic was full, Redis was away
               too long
    failed     the pump raised, took too long, or returned what cannot be pushed
    lost       claimed here, but taken away before the push; or claimed by an earlier run that died over them
    seconds    how long the latest pumps took, in tick order
    delays     how long after their ticks the latest pumps began
    """

    due: int = 0
    pushed: int = 0
    entries: int = 0
    bytes: int = 0
    failed: int = 0
    lost: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    delays: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    @property
    def missed(self) -> int:
        """Return how many ticks were missed, for whatever reason."""
        return self.reasons.total()

    def __str__(self) -> str:
        why = "".join(f"; {n} {reason}" for reason, n in sorted(self.reasons.items()))
        return (
            f"{self.due} ticks due, {self.pushed} pushed ({self.entries} entries, {self.bytes} bytes), {self.missed} missed, "
            f"{self.failed} failed, {self.lost} lost{why}; the pump took {_ms(self.seconds, 0.5)} (p50), {_ms(self.seconds, 0.99)} (p99) "
            f"and began {_ms(self.delays, 0.5)} (p50), {_ms(self.delays, 0.999)} (p99.9) after its tick"
        )

    def markdown(self) -> str:
        """Return it as a table."""
        rows = {
            "ticks due": self.due,
            "pushed": self.pushed,
            "entries": self.entries,
            "bytes": f"{self.bytes:,}",
            **{f"missed: {reason}": n for reason, n in sorted(self.reasons.items())},
            "failed": self.failed,
            "lost": self.lost,
            "pump time p50, p99": f"{_ms(self.seconds, 0.5)}, {_ms(self.seconds, 0.99)}",
            "start after the tick p50, p99.9": f"{_ms(self.delays, 0.5)}, {_ms(self.delays, 0.999)}",
        }
        return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _ms(values: Iterable[float], quantile: float) -> str:
    ordered = sorted(values)
    return f"{ordered[int(quantile * (len(ordered) - 1))] * 1000:.0f} ms" if ordered else "0 ms"


class Pumping:
    """One run of a pump: from when it takes the beat over until it is relieved, stopped, or its window ends.

    A tick that finds no free thread is missed, never queued. What was pumped is pushed in tick order, each
    tick once. A pump that fails costs its own tick only, up to `max_failures` in a row. While Redis is away, the
    run goes on pumping, and what it pumped waits in memory; beyond the bounds, ticks are missed. Where the clock
    steps back, ticks that were claimed are not pumped again: the run waits for the clock, and says so once.

    pump       called without arguments; may be async
    threads    how many pumps may run at once; 0: one, in this thread
    timeout    seconds after which a pump counts as failed; its thread is replaced, as it cannot be stopped
    window     seconds after which the run ends if nobody has relieved it; None: never
    max_waiting, max_waiting_bytes   the most entries and bytes that wait for Redis
    on_pushed  called with the ids and the entries of each push, in tick order
    """

    def __init__(
        self,
        pump: Callable[[], Any],
        *,
        name: str,
        beat: Beat,
        threads: int = 0,
        timeout: float | None = None,
        window: float | None = None,
        max_failures: int = 10,
        max_waiting: int = 10_000,
        max_waiting_bytes: int = 64 << 20,
        stop: threading.Event | None = None,
        on_pushed: Callable[[list[str], Entries], None] | None = None,
        clock: Callable[[], float] = time.time,
        log: logging.Logger | logging.LoggerAdapter[Any] | None = None,
    ) -> None:
        if threads < 0:
            msg = f"threads: expected 0 or more, got {threads}"
            raise SettingsError(msg)
        if timeout is not None and not threads:
            msg = f"timeout: a pump in the run's own thread cannot be left behind; give {name!r} threads=1 or more"
            raise SettingsError(msg)
        self.summary = Summary()
        self._pump = synchronous(pump)
        self._name = name
        self._beat = beat
        self._threads = threads
        self._timeout = timeout
        self._window = window
        self._max_failures = max_failures
        self._stop = stop or threading.Event()
        self._on_pushed = on_pushed
        self._clock = clock
        self._warn = Repeated(log or logging.getLogger(__name__))
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._lock = threading.Lock()
        self._running = 0
        self._failures_in_a_row = 0
        self._fatal: BaseException | None = None
        self._ended = False
        self._gives_up: float | None = None
        self._waits_for_clock = False

    def run(self) -> Summary:
        """Pump until relieved, stopped or out of time; wait for what is under way; return what came of it.

        raises   PumpError: too many ticks failed in a row
        """
        self.begin()
        try:
            while (wait := self.step()) is not None:
                self._stop.wait(wait) if not self._ended else time.sleep(wait)
        finally:
            self.close()
        return self.summary

    def stop(self) -> None:
        """Ask `run` to end when what is under way is pushed."""
        self._stop.set()

    def begin(self) -> None:
        """Announce this run as the one that relieves whoever pumps."""
        now = self._clock()
        self._next = self._beat.start(now)
        self._end = None if self._window is None else now + self._window
        self._pusher = Pusher(self._beat, settled=self._settled, lost=self._lost, restart=self._restart)

    def close(self) -> None:
        """End the pusher, and count what is left as missed."""
        left = self._pusher.close()
        if n := sum(job.began is not None for job in left):
            self._miss(n, "Redis was away until the end")
        self._warn.flush()

    def step(self) -> float | None:
        """Do what is due now; return the seconds until something may be due again, None when all is done."""
        now = self._clock()
        self._give_up_on_the_slow(now)
        if (fatal := self._fatal or self._pusher.fatal) is not None:
            raise fatal
        if self._stop.is_set() or (self._end is not None and now >= self._end):
            self._ended = True
        if self._ended:
            return self._until_all_is_over()
        every = self._beat.every
        if now < time_of(self._next, every):
            if time_of(self._next, every) - now > every + 1 and not self._waits_for_clock:
                self._waits_for_clock = True
                self._warn("the clock stepped back; it waits until the clock has passed the ticks that were claimed")
            return self._until_next(now)
        current = tick_at(now, every)
        if current > self._next:  # this process slept, the clock stepped, or the pump took longer than a tick
            self.summary.due += current - self._next
            self._miss(current - self._next, "the run came too late")
            self._next = current
        tick, self._next = self._next, self._next + 1
        self._take(tick)
        return self._until_next(self._clock())

    def _until_all_is_over(self) -> float | None:
        if not self._pusher.jobs:
            return None
        if not self._pusher.away or self._running:
            self._gives_up = None
        elif self._gives_up is None:
            self._gives_up = time.monotonic() + _LAST_WAIT
        elif time.monotonic() > self._gives_up:
            return None
        return 0.01

    def _take(self, tick: int) -> None:
        if reason := self._no_room():
            self.summary.due += 1
            self._miss(1, reason)
            return
        job = Job(tick)
        if self._pusher.add(job, patience=min(self._beat.every / 2, 1.0), clock=self._clock):
            self.summary.due += 1
            self.summary.delays.append((job.began or 0.0) - time_of(tick, self._beat.every))
            self._launch(job)

    def _no_room(self) -> str | None:
        jobs = self._pusher.jobs
        # Who emits what was pushed is slowed down by those who take it.
        busy = self._running if self._on_pushed is None else len(jobs)
        if busy >= max(1, self._threads):
            return f"all {max(1, self._threads)} threads were busy"
        entries, size = sum(len(job.encoded) for job in jobs), sum(job.bytes for job in jobs)
        if entries >= self._max_waiting or len(jobs) >= self._max_waiting or size >= self._max_waiting_bytes:
            return "no more may wait for Redis"
        return None

    def _launch(self, job: Job) -> None:
        with self._lock:
            self._running += 1
        if self._threads:
            # Prefect keeps the run's logger in the context.
            run = contextvars.copy_context().run
            threading.Thread(target=run, args=(self._work, job), name=f"{self._name}-{job.tick}", daemon=True).start()
        else:
            self._work(job)

    def _work(self, job: Job) -> None:
        value, encoded, error = None, [], None
        try:
            value = as_entries(self._pump(), name=self._name)
            encoded = self._beat.encode(value)
        except BaseException as raised:  # noqa: BLE001 - whatever a pump may raise; SystemExit would end its thread only
            error = raised
        kept = value if self._on_pushed is not None else None
        self._end_job(job, value=kept, encoded=encoded, error=error)

    def _end_job(self, job: Job, **outcome: Any) -> None:
        if self._pusher.end(job, self._clock(), **outcome):
            with self._lock:
                self._running -= 1

    def _give_up_on_the_slow(self, now: float) -> None:
        if self._timeout is None:
            return
        for job in self._pusher.jobs:
            if job.began is not None and job.ended is None and now - job.began > self._timeout:
                self._end_job(job, error=TimeoutError(f"it took longer than {self._timeout:g} s"))

    def _settled(self, job: Job) -> None:
        """Count what came of a job. In the pusher's thread, in tick order."""
        if job.claim == "relieved":
            self._ended = True
        if job.claim != "claimed":
            if job.began is not None:
                self._miss(1, "another run had the tick")
            return
        if job.began is not None and job.ended is not None:
            self.summary.seconds.append(job.ended - job.began)
        if isinstance(job.error, TopicFullError):
            self._miss(1, "the topic is full")
            return
        if job.error is not None:
            self._failed(job, job.error)
            return
        self._failures_in_a_row = 0
        if job.ids is None:
            self._lost(1)
        elif job.ids:
            self.summary.pushed += 1
            self.summary.entries += len(job.ids)
            self.summary.bytes += job.bytes
            if self._on_pushed is not None:
                self._on_pushed(job.ids, job.value)

    def _failed(self, job: Job, error: BaseException) -> None:
        self.summary.failed += 1
        if not isinstance(error, redis.RedisError):  # that is no fault of the pump's
            self._failures_in_a_row += 1
        at = pd.Timestamp(time_of(job.tick, self._beat.every), unit="s").isoformat()
        self._warn(f"pump {self._name!r} failed", detail=f"tick {job.tick} ({at}): {type(error).__name__}: {error}")
        if self._failures_in_a_row >= self._max_failures:
            msg = f"pump {self._name!r} failed {self._failures_in_a_row} times in a row, at last with {type(error).__name__}: {error}"
            self._fatal = PumpError(msg)
            self._fatal.__cause__ = error

    def _lost(self, ticks: int) -> None:
        self.summary.lost += ticks
        self._warn(
            f"pump {self._name!r} lost ticks: the run that had claimed them died, or stood still for too long", ticks
        )

    def _restart(self) -> None:
        self._warn(f"the beat of pump {self._name!r} is gone from Redis (flushed?); this run takes it up again")
        self._beat.start(self._clock())

    def _miss(self, ticks: int, why: str) -> None:
        with self._lock:
            self.summary.reasons[why] += ticks
        self._warn(f"pump {self._name!r} missed ticks: {why}", ticks)

    def _until_next(self, now: float) -> float:
        wait = max(0.0, time_of(self._next, self._beat.every) - now)
        if self._end is not None:
            wait = min(wait, max(0.0, self._end - now))
        return wait if self._timeout is None else min(wait, self._timeout / 4)
