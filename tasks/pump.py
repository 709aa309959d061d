"""A pump on its grid: ticks, threads, timeouts and order. Plain Python, nothing of Prefect."""

import asyncio
import contextvars
import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import redis

from tasks.errors import EncodeError, PumpError, SettingsError, TopicFullError
from tasks.ticks import Beat, tick_at, time_of

__all__ = ["Pumping", "Summary", "as_entries", "synchronous"]

Entries = list[Mapping[str, Any]]


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

    missed     no thread was free, the run came too late, Redis did not answer, or the topic was full
    failed     the pump raised, took too long, or returned what cannot be pushed
    lost       claimed here, but taken away before the push
    seconds    how long each pump took, in tick order
    """

    due: int = 0
    pushed: int = 0
    entries: int = 0
    missed: int = 0
    failed: int = 0
    lost: int = 0
    seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        took = sorted(self.seconds)
        p50, p99 = (took[int(q * (len(took) - 1))] * 1000 for q in (0.5, 0.99)) if took else (0, 0)
        return (
            f"{self.due} ticks due, {self.pushed} pushed ({self.entries} entries), {self.missed} missed, "
            f"{self.failed} failed, {self.lost} lost; the pump took {p50:.0f} ms (p50), {p99:.0f} ms (p99)"
        )


@dataclass(slots=True)
class _Job:
    tick: int
    began: float
    ended: float | None = None
    value: Any = None
    error: BaseException | None = None


class Pumping:
    """One run of a pump: from when it takes the beat over until it is relieved, stopped, or its window ends.

    A tick that finds no free thread is missed, never queued. What was pumped is pushed in tick order, each
    tick once. A pump that fails costs its own tick only, up to `max_failures` in a row.

    pump       called without arguments; may be async
    threads    how many pumps may run at once; 0: one, in this thread
    timeout    seconds after which a pump counts as failed; its thread is replaced, as it cannot be stopped
    window     seconds after which the run ends if nobody has relieved it; None: never
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
        self._log = log or logging.getLogger(__name__)
        self._jobs: list[_Job] = []
        self._lock = threading.Lock()
        self._failures_in_a_row = 0
        self._fatal: BaseException | None = None
        self._ended = False

    def run(self) -> Summary:
        """Pump until relieved, stopped or out of time; wait for what is under way; return what came of it.

        raises   PumpError: too many ticks failed in a row
        """
        self.begin()
        while (wait := self.step()) is not None:
            self._stop.wait(wait)
        return self.summary

    def stop(self) -> None:
        """Ask `run` to end when what is under way is pushed."""
        self._stop.set()

    def begin(self) -> None:
        """Take the beat over."""
        now = self._clock()
        self._next = self._beat.start(now)
        self._end = None if self._window is None else now + self._window

    def step(self) -> float | None:
        """Do what is due now; return the seconds until something may be due again, None when all is done."""
        now = self._clock()
        self._give_up_on_the_slow(now)
        if self._fatal is not None:
            raise self._fatal
        if self._stop.is_set() or (self._end is not None and now >= self._end):
            self._ended = True
        if self._ended:
            return 0.01 if self._jobs else None
        every = self._beat.every
        if now < time_of(self._next, every):
            return self._until_next(now)
        current = tick_at(now, every)
        if current > self._next:  # this process slept, or the pump in its own thread took longer than a tick
            self._miss(current - self._next, "the run came too late for them")
            self._next = current
        tick, self._next = self._next, self._next + 1
        self._take(tick)
        return self._until_next(self._clock())

    def _take(self, tick: int) -> None:
        if len(self._jobs) >= max(1, self._threads):
            self._miss(1, f"all {max(1, self._threads)} threads are busy")
            return
        try:
            claim = self._beat.claim(tick)
        except redis.RedisError as error:
            self._miss(1, f"Redis does not answer ({type(error).__name__})")
            return
        if claim == "relieved":
            self._ended = True
        elif claim == "unknown":
            self._log.warning(
                "the beat of pump %r is gone from Redis (flushed?); this run takes it up again", self._name
            )
            self._next = max(self._next, self._beat.start(self._clock()))
        elif claim == "claimed":
            self.summary.due += 1
            self._launch(_Job(tick, self._clock()))

    def _launch(self, job: _Job) -> None:
        with self._lock:
            self._jobs.append(job)
        if self._threads:
            # Prefect keeps the run's logger in the context.
            run = contextvars.copy_context().run
            threading.Thread(target=run, args=(self._work, job), name=f"{self._name}-{job.tick}", daemon=True).start()
        else:
            self._work(job)

    def _work(self, job: _Job) -> None:
        value, error = None, None
        try:
            value = as_entries(self._pump(), name=self._name)
        except BaseException as raised:  # noqa: BLE001 - whatever a pump may raise; SystemExit would end its thread only
            error = raised
        with self._lock:
            if job.ended is None:  # else it was given up meanwhile
                job.value, job.error, job.ended = value, error, self._clock()
            self._deliver()

    def _give_up_on_the_slow(self, now: float) -> None:
        if self._timeout is None:
            return
        with self._lock:
            for job in self._jobs:
                if job.ended is None and now - job.began > self._timeout:
                    job.error, job.ended = TimeoutError(f"it took longer than {self._timeout:g} s"), now
            self._deliver()

    def _deliver(self) -> None:
        """Push what has ended, in tick order. With the lock held: the order is the promise."""
        while self._jobs and self._jobs[0].ended is not None:
            job = self._jobs[0]
            try:
                self._settle(job)
            except Exception as error:  # noqa: BLE001 - a thread's error would be lost; the run raises it
                self._fatal = self._fatal or error
            finally:
                self._jobs.pop(0)

    def _settle(self, job: _Job) -> None:
        self.summary.seconds.append((job.ended or job.began) - job.began)
        if job.error is None and job.value:
            try:
                self._push(job)
            except (EncodeError, redis.RedisError) as error:
                job.error = error
            except TopicFullError as error:
                self.summary.missed += 1
                self._log.warning("pump %r missed tick %d: %s", self._name, job.tick, error)
        if job.error is None:
            self._failures_in_a_row = 0
            return
        self.summary.failed += 1
        if not isinstance(job.error, redis.RedisError):  # that is no fault of the pump's
            self._failures_in_a_row += 1
        self._log.warning(
            "pump %r failed at tick %d (%s): %s: %s", self._name, job.tick,
            pd.Timestamp(time_of(job.tick, self._beat.every), unit="s").isoformat(), type(job.error).__name__, job.error,
        )  # fmt: skip
        if self._failures_in_a_row >= self._max_failures:
            msg = f"pump {self._name!r} failed {self._failures_in_a_row} times in a row, at last with {type(job.error).__name__}: {job.error}"
            self._fatal = PumpError(msg)
            self._fatal.__cause__ = job.error

    def _push(self, job: _Job) -> None:
        ids = self._beat.push(job.tick, job.value)
        if ids is None:
            self.summary.lost += 1
            return
        self.summary.pushed += 1
        self.summary.entries += len(ids)
        if self._on_pushed is not None:
            self._on_pushed(ids, job.value)

    def _miss(self, ticks: int, why: str) -> None:
        self.summary.due += ticks
        self.summary.missed += ticks
        self._log.warning("pump %r missed %d of its ticks: %s", self._name, ticks, why)

    def _until_next(self, now: float) -> float:
        wait = max(0.0, time_of(self._next, self._beat.every) - now)
        if self._end is not None:
            wait = min(wait, max(0.0, self._end - now))
        return wait if self._timeout is None else min(wait, self._timeout / 4)
