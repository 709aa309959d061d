"""Runs a pump at the ticks of its grid. Does not use Prefect.

The value of a pump passes through three threads, which share nothing but the hand-over and the tally:

- the run's (`PumpRun`) decides at each tick whether the pump is called, and ends the run;
- the calls' (`Calls`) call it and encode what it returns;
- the pusher's (`Pusher`, `Outcomes`, `Failing`) claims each tick in Redis, pushes its entries and counts its outcome.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import redis

from tasks.base.logs import get_logger
from tasks.base.repeated_warnings import Repeated
from tasks.errors import RetryLater
from tasks.pump.call_limit import CallGate
from tasks.pump.calls import Calls
from tasks.pump.failing import Failing, WhenFailing
from tasks.pump.handover import Handover, Job
from tasks.pump.outcomes import ASKED_TO_WAIT, OnPushed, Outcomes
from tasks.pump.pusher import Pusher
from tasks.pump.remembering import Remembering
from tasks.pump.summary import Summary
from tasks.pump.tally import Tally
from tasks.pump.ticks import MAX_SKEW, Beat, is_far_ahead, tick_at, time_of
from tasks.reservoir.keep import BacklogLimits

__all__ = ["PumpRun"]

# Seconds that a run waits, at its end, for a Redis that is away.
_LAST_WAIT = 10.0
# Seconds that `close` waits for the pusher's thread, which Redis may hold up.
_PUSHER_ENDS = 5.0
# Seconds after which a run whose window is over checks again whether it continues.
_EXTENSION = 10.0
# Seconds between two looks whether a job is prepared.
_LOOK_FOR_PREPARED = 0.05
RESTING = "the pump had failed too often in a row"


def _time_of_tick(name: str, every: float, job: Job) -> dict[str, Any]:
    return {name: datetime.fromtimestamp(time_of(job.tick, every), UTC)}


class PumpRun:
    """One run of a pump: from when it takes the beat over until it is relieved or stopped, or its window ends.

    A tick that finds no free thread is missed, never queued. Entries are pushed in tick order, each tick once. A pump that
    fails costs its own tick only. After `max_failures` failed ticks in a row it is called less often, and at every tick again
    once it works; the ticks in between are missed. During a Redis outage, the run continues to pump, and its entries wait in
    memory; beyond the bounds, ticks are missed. After the clock stepped back, or where another machine's is ahead, claimed
    ticks are not pumped again: they are missed until the clock has passed them.

    One thread, the run's, calls all methods but `stop` and `summary`, which any may.

    pump          called without arguments; may be async: then all its calls are awaited in one loop, which is the run's
    threads       number of calls at once; 0: one, in the run's own thread
    timeout       seconds after which a call counts as failed; an async one is cancelled, another one's thread left behind
    window        seconds after which the run ends unless it is relieved before; None: never
    goes_on       called at the end of the window; returns whether the run continues all the same
    when_failing  what the run does after `max_failures` failed ticks in a row: 'retry', it continues to its end, and fails if it
                  pushed nothing at all; 'fail', it fails at once. A tick that Redis refuses permanently has failed
    max_waiting   bounds of what waits for Redis; beyond, ticks are missed
    remembering   gives each call the cursor of `beat`, once the entries of the call before are pushed; None: the pump has no cursor
    gate          allows calls of the source, for this inlet and for others; None: always
    catch_up      seconds; ticks of this time that no run has pumped are pumped late, one after the other, and not missed
    at            name of the pump's parameter for the time of the tick; '' for none
    on_pushed     called with the ids and the entries of each push, in tick order, in the pusher's thread
    clock         returns the time of day, which the grid follows
    timer         returns elapsed time, independent of changes of the clock
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
        max_waiting: BacklogLimits = BacklogLimits(),  # noqa: B008 - frozen
        remembering: Remembering | None = None,
        gate: CallGate | None = None,
        catch_up: float = 0.0,
        at: str = "",
        stop: threading.Event | None = None,
        goes_on: Callable[[], bool] = lambda: False,
        on_pushed: OnPushed | None = None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        log: logging.Logger | logging.LoggerAdapter[Any] | None = None,
    ) -> None:
        self._beat = beat
        self._timeout = timeout
        self._window = window
        self._stop = stop or threading.Event()
        self._goes_on = goes_on
        # A pipeline that takes the pushed entries slows the pump down; the next call needs the cursor that this push stores.
        self._waits_for_pushes = on_pushed is not None or remembering is not None
        self._clock = clock
        self._timer = timer
        self._log = log or get_logger(__name__)
        self._max_waiting = max_waiting
        self._warn = Repeated(self._log)
        self._tally = Tally(name, self._warn)
        self._failing = Failing(name, every=beat.every, most=max_failures, when=when_failing, log=self._log)
        self._prepares = remembering is not None or (gate is not None and gate.limit is not None)
        self._gate = gate
        self._catch_up = catch_up
        self._handover = Handover(prepares=self._prepares)
        self._calls = Calls(
            pump,
            self._handover,
            name=name,
            threads=threads,
            timeout=timeout,
            timer=timer,
            encode=partial(beat.reservoir.encode, topic=beat.topic, by=beat.by),
            keeps=on_pushed is not None,
            remembering=remembering,
            arguments=partial(_time_of_tick, at, beat.every) if at else lambda _: {},
        )
        self._remembers = remembering is not None
        self._outcomes = Outcomes(
            name, beat, self._tally, self._failing, self._warn, clock=clock, timer=timer, on_pushed=on_pushed
        )
        self._ended = False
        self._gives_up: float | None = None
        self._taken = 0  # the last tick that was taken: none is taken twice, even if the clock is set back

    @property
    def summary(self) -> Summary:
        """Return the counts so far. Any thread."""
        return self._tally.summary()

    def run(self) -> Summary:
        """Pump until relieved, stopped or out of time; wait for jobs under way; return the counts.

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
        """Raise PumpError if the run has failed as a whole. A run that was stopped has not."""
        if not self._stop.is_set():
            self._failing.check(self.summary)

    def stop(self) -> None:
        """Make `run` end once the jobs under way are pushed. Any thread."""
        self._stop.set()

    def begin(self) -> None:
        """Announce this run as the one that relieves the current one."""
        self._next = self._beat.start(self._clock(), catch_up=self._catch_up)
        self._end = None if self._window is None else self._timer() + self._window
        self._check_clock(self._beat.skew)
        if self._gate and (left := self._gate.left()):  # an earlier run was asked to wait
            self._failing.rest(left, ended=self._timer())
        self._pusher = Pusher(
            self._beat,
            self._handover,
            self._outcomes,
            gate=self._gate,
            is_patient=self._catch_up > 0,
            clock=self._clock,
            timer=self._timer,
        )

    def close(self) -> None:
        """End the pusher and the pump's loop, and count the remaining jobs as missed."""
        left = self._handover.close()
        has_ended = self._pusher.join(0.0 if self._pusher.is_away else _PUSHER_ENDS)
        self._calls.close()
        why = "Redis was away until the end" if self._pusher.is_away else "the run ended before their push"
        if n := sum(job.began is not None for job in left):
            self._tally.missed(n, why)
        for job in left:
            if job.skipped:
                self._tally.missed(1, job.skipped, due=True)
        self._tally.ended(failing=self._failing.in_a_row)
        # Without this record of where the run ended, the next one counts from the last tick that was claimed.
        if has_ended and not self._pusher.is_away:
            self._take_back()
            with suppress(redis.RedisError):
                self._beat.end(self._next - 1)
                self._outcomes.count_unattended()
                self._beat.count(self._outcomes.totals())
        self._warn.flush()

    def step(self) -> float | None:
        """Do what is due now; return the seconds until something may be due again, None at the end."""
        now = self._clock()
        self._calls.give_up_on_the_slow()
        if (fatal := self._failing.fatal or self._pusher.fatal) is not None:
            raise fatal
        if self._stop.is_set() or self._outcomes.is_relieved or self._is_window_over():
            self._ended = True
        self._call_late()
        self._take_back()
        if self._ended:
            return self._until_all_is_over()
        every = self._beat.every
        if now < time_of(self._next, every):
            if is_far_ahead(self._next, every, now):  # the clock stepped back
                self._next = tick_at(now, every) + 1
            return self._until_next(now)
        current = tick_at(now, every)
        if self._catch_up:
            if late := self._behind_catching_up(now):
                return late
        elif current > self._next:  # this process slept, the clock stepped, or the pump took longer than a tick
            self._tally.missed(current - self._next, "the run came too late", due=True)
            self._next = current
        tick, self._next = self._next, self._next + 1
        self._take(tick)
        return self._until_next(self._clock())

    def _take_back(self) -> None:
        """Begin again at the first tick that was given back."""
        while self._outcomes.returned:
            tick = self._outcomes.returned.popleft()
            self._next, self._taken = min(self._next, tick), min(self._taken, tick - 1)

    def _behind_catching_up(self, now: float) -> float:
        """Miss the ticks that are too old to be caught up; return the seconds to wait if no tick can be pumped now."""
        oldest = tick_at(now - self._catch_up, self._beat.every) + 1
        if self._next < oldest:
            self._tally.missed(oldest - self._next, "they were older than catch_up", due=True)
            self._next = oldest
        is_asked = any(
            isinstance(job.error, RetryLater) for job in self._handover.jobs
        )  # which gives its tick back soon
        return _LOOK_FOR_PREPARED if is_asked or self._is_full() or self._why_skipped() else 0.0

    def _is_window_over(self) -> bool:
        if self._end is None or self._timer() < self._end:
            return False
        if not self._goes_on():
            return True
        self._end = self._timer() + _EXTENSION
        return False

    def _until_all_is_over(self) -> float | None:
        if not self._handover.jobs:
            return None
        if not self._pusher.is_away or len(self._calls):
            self._gives_up = None
        elif self._gives_up is None:
            self._gives_up = time.monotonic() + _LAST_WAIT
        elif time.monotonic() > self._gives_up:
            return None
        return 0.01

    def _take(self, tick: int) -> None:
        if self._is_full():
            self._tally.missed(1, "no more may wait for Redis", due=True)
            return
        if tick <= self._taken:
            self._tally.missed_behind(time_of(self._taken, self._beat.every) - self._clock(), due=True)
            return
        self._taken = tick
        # A skipped tick is claimed all the same, so that it is counted once, whichever run relieves this one.
        job = Job(tick, skipped=self._why_skipped())
        self._handover.add(job)
        if job.skipped:
            return
        if not self._pusher.is_away:
            job.answered.wait(min(self._beat.every / 2, 1.0))
        if not self._prepares or job.answered.is_set():
            self._call(job)

    def _call(self, job: Job) -> None:
        if self._handover.begin(job, self._timer()):
            self._tally.called(delay=self._clock() - time_of(job.tick, self._beat.every))
            self._calls.start(job)

    def _call_late(self) -> None:
        """Call the pump for a job that had to wait for its preparation; at the end of the run, give it up."""
        job = self._handover.uncalled()
        if job is None:
            return
        if job.answered.is_set():
            self._call(job)
        elif self._ended:
            self._handover.abandon(job, self._timer(), "the run ended before the call")

    def _why_skipped(self) -> str:
        """Return why the pump is not called at this tick; '' if it is."""
        busy = sum(not job.skipped for job in self._handover.jobs) if self._waits_for_pushes else len(self._calls)
        if busy and self._remembers:
            return "the tick before was not pushed yet"
        if busy >= self._calls.at_once:
            return f"all {self._calls.at_once} threads were busy"
        if not self._failing.is_resting(self._timer()):
            return ""
        return ASKED_TO_WAIT if self._failing.is_asked else RESTING

    def _is_full(self) -> bool:
        jobs = self._handover.jobs
        entries, size = sum(len(job.encoded) for job in jobs), sum(job.bytes for job in jobs)
        return max(entries, len(jobs)) >= self._max_waiting.entries or size >= self._max_waiting.max_bytes

    def _check_clock(self, skew: float) -> None:
        self._tally.began(skew=skew)
        if abs(skew) > MAX_SKEW:
            self._log.warning(
                "this machine's clock is %.1f s %s Redis'; ticks follow this one's, and runs on machines that differ delay one "
                "another: set the clocks",
                abs(skew), "ahead of" if skew > 0 else "behind",
            )  # fmt: skip

    def _until_next(self, now: float) -> float:
        wait = max(0.0, time_of(self._next, self._beat.every) - now)
        if self._end is not None:
            wait = min(wait, max(0.0, self._end - self._timer()))
        if self._prepares and self._handover.uncalled() is not None:
            wait = min(wait, _LOOK_FOR_PREPARED)
        return wait if self._timeout is None else min(wait, self._timeout / 4)
