"""A pump on its grid: ticks, threads, timeouts and order. Plain Python, nothing of Prefect."""

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import redis

from tasks.base.logs import get_logger
from tasks.base.loop_thread import OwnLoop
from tasks.base.plain_text import error_line
from tasks.base.repeated_warnings import Repeated
from tasks.checks import check_number
from tasks.errors import SettingsError, TopicFullError
from tasks.pump.failing import Failing, WhenFailing
from tasks.pump.pusher import Job, Pusher
from tasks.pump.returned import Entries, as_entries
from tasks.pump.summary import Summary
from tasks.pump.ticks import Beat, tick_at, time_of
from tasks.reservoir.keep import Buffer

__all__ = ["Pumping"]

# How long a run waits, after its end, for a Redis that is away.
_LAST_WAIT = 10.0
# Seconds after which a run whose window is over is asked again whether it goes on.
_EXTENSION = 10.0
# Seconds that clocks may differ before it is said.
MAX_SKEW = 1.0
RESTING = "the pump had failed too often in a row"


class Pumping:
    """One run of a pump: from when it takes the beat over until it is relieved, stopped, or its window ends.

    A tick that finds no free thread is missed, never queued. What was pumped is pushed in tick order, each
    tick once. A pump that fails costs its own tick only. After `max_failures` failed ticks in a row it is called less often,
    and at every tick again once it works; the ticks in between are missed. While Redis is away, the
    run goes on pumping, and what it pumped waits in memory; beyond the bounds, ticks are missed. Where the clock
    stepped back, or another machine's is ahead, ticks that were claimed are not pumped again: they are missed until the
    clock has passed them.

    pump       called without arguments; may be async: then all its calls are awaited in one loop, which is the run's
    threads    how many pumps may run at once; 0: one, in this thread
    timeout    seconds after which a pump counts as failed; an async one is cancelled, the thread of another one replaced,
               as it cannot be stopped
    window     seconds after which the run ends if nobody has relieved it; None: never
    goes_on    asked at the end of the window: whether the run pumps on all the same
    when_failing  what comes of the run after `max_failures` failed ticks in a row: 'retry', it goes on to its end, and has
                 failed if it pushed nothing at all; 'fail', it fails at once. A tick that Redis refuses for good has failed
    max_waiting  how much may wait for Redis: beyond, ticks are missed
    on_pushed  called with the ids and the entries of each push, in tick order
    clock      tells the time of day: the grid's
    timer      tells how much time has passed, whatever happens to the clock
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
        when_failing: WhenFailing = "retry",
        max_waiting: Buffer = Buffer(),  # noqa: B008 - frozen
        stop: threading.Event | None = None,
        goes_on: Callable[[], bool] = lambda: False,
        on_pushed: Callable[[list[str], Entries], None] | None = None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        log: logging.Logger | logging.LoggerAdapter[Any] | None = None,
    ) -> None:
        check_number(threads, least=0, name="threads")
        if timeout is not None and not threads:
            msg = f"timeout: a pump in the run's own thread cannot be left behind; give {name!r} threads=1 or more"
            raise SettingsError(msg)
        self.summary = Summary()
        self._pump = pump
        self._loop = OwnLoop()
        self._name = name
        self._beat = beat
        self._threads = threads
        self._timeout = timeout
        self._window = window
        self._stop = stop or threading.Event()
        self._goes_on = goes_on
        self._on_pushed = on_pushed
        self._clock = clock
        self._timer = timer
        self._log = log or get_logger(__name__)
        self._warn = Repeated(self._log)
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._running: set[Job] = set()  # also those whose tick was not to be had after all
        self._failing = Failing(name, every=beat.every, most=max_failures, when=when_failing, log=self._log)
        self._is_counted = False
        self._ended = False
        self._gives_up: float | None = None
        self._taken = 0  # the last tick that was; whatever the clock says, none is taken twice

    def run(self) -> Summary:
        """Pump until relieved, stopped or out of time; wait for what is under way; return what came of it.

        raises   PumpError: too many ticks failed in a row, and nothing was pushed, or `when_failing` is 'fail'
        """
        self.begin()
        try:
            while (wait := self.step()) is not None:
                self._stop.wait(wait) if not self._ended else time.sleep(wait)
        finally:
            self.close()
        self.check()
        return self.summary

    def check(self) -> None:
        """Raise PumpError if the run has failed as a whole; one that was stopped has not."""
        if not self._stop.is_set():
            self._failing.check(self.summary)

    def stop(self) -> None:
        """Ask `run` to end when what is under way is pushed."""
        self._stop.set()

    def begin(self) -> None:
        """Announce this run as the one that relieves whoever pumps."""
        self._next = self._beat.start(self._clock())
        self._end = None if self._window is None else self._timer() + self._window
        self._check_clock()
        self._pusher = Pusher(
            self._beat, settled=self._settled, lost=self._lost_before, restart=self._restart, outage=self._outage
        )

    def close(self) -> None:
        """End the pusher and the pump's loop, and count what is left as missed."""
        left = self._pusher.close()
        self._loop.close()
        if n := sum(job.began is not None for job in left):
            self._miss(n, "Redis was away until the end")
        for job in left:
            if job.skipped:
                self._miss(1, job.skipped, due=True)
        if in_a_row := self._failing.in_a_row:
            self.summary.failing = in_a_row
        # Where Redis does not know where this run ended, the next one counts from the last tick that was claimed.
        with suppress(redis.RedisError):
            if not self._pusher.away:
                self._beat.end(self._next - 1)
                self._count_unattended()
        self._warn.flush()

    def step(self) -> float | None:
        """Do what is due now; return the seconds until something may be due again, None when all is done."""
        now = self._clock()
        self._give_up_on_the_slow()
        if (fatal := self._failing.fatal or self._pusher.fatal) is not None:
            raise fatal
        if self._stop.is_set() or self._is_window_over():
            self._ended = True
        if self._ended:
            return self._until_all_is_over()
        every = self._beat.every
        if now < time_of(self._next, every):
            if self._is_far_behind(self._next):  # the clock stepped back
                self._next = tick_at(now, every) + 1
            return self._until_next(now)
        current = tick_at(now, every)
        if current > self._next:  # this process slept, the clock stepped, or the pump took longer than a tick
            self._miss(current - self._next, "the run came too late", due=True)
            self._next = current
        tick, self._next = self._next, self._next + 1
        self._take(tick)
        return self._until_next(self._clock())

    def _is_window_over(self) -> bool:
        if self._end is None or self._timer() < self._end:
            return False
        if not self._goes_on():
            return True
        self._end = self._timer() + _EXTENSION
        return False

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
        if self._is_full():
            self._miss(1, "no more may wait for Redis", due=True)
            return
        if tick <= self._taken:
            self._miss_behind(self._taken, due=True)
            return
        self._taken = tick
        # A tick that is skipped is claimed all the same: so it is counted once, whichever run relieves this one.
        job = Job(tick, skipped=self._why_skipped())
        if self._pusher.add(job, patience=min(self._beat.every / 2, 1.0), timer=self._timer):
            with self._lock:
                self.summary.due += 1
            self.summary.delays.append(self._clock() - time_of(tick, self._beat.every))
            self._launch(job)

    def _why_skipped(self) -> str:
        """Return why the pump is not to be called at this tick; '' if it is."""
        # Who emits what was pushed is slowed down by those who take it.
        waiting = [job for job in self._pusher.jobs if not job.skipped]
        busy = len(self._running) if self._on_pushed is None else len(waiting)
        if busy >= max(1, self._threads):
            return f"all {max(1, self._threads)} threads were busy"
        return RESTING if self._failing.is_resting(self._timer()) else ""

    def _is_full(self) -> bool:
        jobs = self._pusher.jobs
        entries, size = sum(len(job.encoded) for job in jobs), sum(job.bytes for job in jobs)
        return max(entries, len(jobs)) >= self._max_waiting.entries or size >= self._max_waiting.max_bytes

    def _launch(self, job: Job) -> None:
        with self._lock:
            self._running.add(job)
        if self._threads:
            # Prefect keeps the run's logger in the context.
            run = contextvars.copy_context().run
            threading.Thread(target=run, args=(self._work, job), name=f"{self._name}-{job.tick}", daemon=True).start()
        else:
            self._work(job)

    def _work(self, job: Job) -> None:
        value, encoded, error = None, [], None
        try:
            value = as_entries(self._loop.call(self._pump, timeout=self._timeout), name=self._name)
            encoded = self._beat.encode(value)
        except BaseException as raised:  # noqa: BLE001 - whatever a pump may raise; SystemExit would end its thread only
            error = raised
        kept = value if self._on_pushed is not None else None
        self._end_job(job, value=kept, encoded=encoded, error=error)

    def _end_job(self, job: Job, **outcome: Any) -> None:
        if self._pusher.end(job, self._timer(), **outcome):
            with self._lock:
                self._running.discard(job)

    def _give_up_on_the_slow(self) -> None:
        if self._timeout is None:
            return
        now = self._timer()
        with self._lock:
            running = list(self._running)
        for job in running:
            if job.began is not None and now - job.began > self._timeout:
                self._end_job(job, error=TimeoutError(f"it took longer than {self._timeout:g} s"))

    def _settled(self, job: Job) -> None:
        """Count what came of a job. In the pusher's thread, in tick order."""
        if job.claim == "relieved":
            self._ended = True
        if job.claim == "refused" and job.skipped:
            self._miss(1, job.skipped, due=True)
            return
        if job.claim == "refused" and job.refusal is not None:
            self._failed(job, job.refusal, due=job.began is None)
            return
        if job.claim != "claimed":
            self._not_claimed(job)
            return
        self._count_unattended()
        if job.skipped:
            self._miss(1, job.skipped, due=True)
            return
        if job.began is not None and job.ended is not None:
            self.summary.seconds.append(job.ended - job.began)
        if isinstance(job.error, TopicFullError):
            self._miss(1, "the topic is full")
            return
        if (error := job.refusal or job.error) is not None:
            self._failed(job, error)
            return
        self._failing.worked()
        self._pushed(job)

    def _pushed(self, job: Job) -> None:
        if job.ids is None:
            self._lost(1)
        elif job.ids:
            self.summary.pushed += 1
            self.summary.entries += len(job.ids)
            self.summary.bytes += job.bytes
            if self._on_pushed is not None:
                self._on_pushed(job.ids, job.value)
        else:
            self.summary.nothing += 1

    def _count_unattended(self) -> None:
        if self._is_counted:
            return
        self._is_counted = True
        self.summary.unattended = self._beat.unattended or 0
        if self.summary.unattended:
            self._warn(
                f"before the first tick of this run of pump {self._name!r} no run had claimed or counted ticks",
                self.summary.unattended,
            )

    def _not_claimed(self, job: Job) -> None:
        """Count what is missed: not what another run had in time, or a run that was just relieved would miss ticks."""
        is_new = job.began is None
        if job.claim == "ahead":
            self._miss(1, "this machine's clock is too far ahead of Redis'", due=is_new)
        elif job.claim == "taken" and self._is_far_behind(self._beat.last):
            self._miss_behind(self._beat.last, due=is_new)
        elif not is_new:
            self._miss(1, "another run had it, or a later one")

    def _miss_behind(self, last: int, *, due: bool) -> None:
        behind = time_of(last, self._beat.every) - self._clock()
        why = "later ones are claimed, as the clock stepped back or another machine's is ahead"
        self._miss(1, why, detail=f"it is {behind:.0f} s behind", due=due)

    def _is_far_behind(self, tick: int) -> bool:
        """Return whether a tick is further ahead of the clock than clocks that agree would make it."""
        return time_of(tick, self._beat.every) - self._clock() > self._beat.every + MAX_SKEW

    def _check_clock(self) -> None:
        skew = self.summary.skew = self._beat.skew
        if abs(skew) > MAX_SKEW:
            self._log.warning(
                "this machine's clock is %.1f s %s Redis'; ticks follow this one's, and runs on machines that differ keep one another waiting: set the clocks",
                abs(skew),
                "ahead of" if skew > 0 else "behind",
            )

    def _failed(self, job: Job, error: BaseException, *, due: bool = False) -> None:
        with self._lock:
            self.summary.failed += 1
            self.summary.due += due
        at = datetime.fromtimestamp(time_of(job.tick, self._beat.every), UTC).isoformat()
        what = f"Redis refuses ticks of pump {self._name!r}" if job.refusal else f"pump {self._name!r} failed"
        self._warn(what, detail=f"tick {job.tick} ({at}): {error_line(error)}")
        self._failing.failed(error, ended=self._timer() if job.ended is None else job.ended)

    def _lost_before(self, ticks: int) -> None:
        with self._lock:
            self.summary.due += ticks
        self._lost(ticks)

    def _lost(self, ticks: int) -> None:
        self.summary.lost += ticks
        self._warn(
            f"pump {self._name!r} lost ticks: the run that had claimed them died, or stood still for too long", ticks
        )

    def _outage(self, error: Exception | None) -> None:
        if error is None:
            self._warn(f"Redis answers pump {self._name!r} again")
        else:
            what = f"Redis does not answer pump {self._name!r}; it goes on, and what it returns waits in memory"
            self._warn(what, detail=type(error).__name__)

    def _restart(self) -> None:
        self._warn(f"the beat of pump {self._name!r} is gone from Redis (flushed?); this run takes it up again")
        self._beat.start(self._clock())

    def _miss(self, ticks: int, why: str, *, detail: str = "", due: bool = False) -> None:
        """Count ticks as missed, and as due if they were not counted as that before."""
        with self._lock:
            self.summary.reasons[why] += ticks
            self.summary.due += ticks if due else 0
        self._warn(f"pump {self._name!r} missed ticks: {why}", ticks, detail=detail)

    def _until_next(self, now: float) -> float:
        wait = max(0.0, time_of(self._next, self._beat.every) - now)
        if self._end is not None:
            wait = min(wait, max(0.0, self._end - self._timer()))
        return wait if self._timeout is None else min(wait, self._timeout / 4)
