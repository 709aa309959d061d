"""Claims the ticks of a run and pushes their entries, in tick order, in a thread that can wait for Redis."""

import contextvars
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import redis

from tasks.base.backoff import Backoff
from tasks.errors import RetryLater, TopicFullError
from tasks.pump.call_limit import CallGate
from tasks.pump.handover import Handover, Job
from tasks.pump.outcomes import Outcomes
from tasks.pump.ticks import Beat
from tasks.reservoir.connection import is_outage
from tasks.reservoir.cursors import CursorMove

__all__ = ["Pusher"]

# Seconds that the first push waits for ticks of an earlier run that is alive; beyond, they are lost.
MAX_WAIT = 60.0
_LIVE_EVERY = 1.0
_COUNT_EVERY = 5.0  # seconds between two writes of the run's counts
_WAIT_FOR_EARLIER = 0.02
_AFTER_ERROR = 0.05  # seconds, where an error concerns no job


class Pusher:
    """The thread that claims and pushes. During a Redis outage, the jobs wait in the hand-over.

    gate        allows calls of the source; None: all
    is_patient  whether a tick that the gate or the source delays is pumped later, and not missed

    Constructed, and joined, by the run's thread; all private methods run in the pusher's. In between, `beat` and `outcomes`
    belong to it. It writes, and any thread may read:

    is_away   whether Redis does not answer
    fatal     an error that ends the run
    """

    def __init__(
        self,
        beat: Beat,
        handover: Handover,
        outcomes: Outcomes,
        *,
        gate: CallGate | None = None,
        is_patient: bool = False,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_away = False
        self.fatal: BaseException | None = None
        self._beat = beat
        self._handover = handover
        self._outcomes = outcomes
        self._gate = gate
        self._is_patient = is_patient
        self._prepares = handover.prepares
        self._timer = timer
        self._clock = clock
        self._grace = min(beat.every / 4, 0.1)
        self._at: Job | None = None  # the job whose command is under way
        self._backoff = Backoff(first=0.05, longest=1.0)
        self._is_first = True
        self._waiting_since: float | None = None
        self._lived = 0.0
        self._counted = time.monotonic()
        # Prefect keeps the run's logger in the context.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), name="pusher", daemon=True)
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait for the thread to end, after the hand-over was closed; return whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._handover.is_closed:
            pause = self._try_step()
            if pause is None:
                self._handover.wait(_LIVE_EVERY, for_job=True)
            elif pause:
                self._handover.wait(pause)

    def _try_step(self) -> float | None:
        try:
            pause = self._step()
        except redis.RedisError as error:
            if not is_outage(error):
                return self._drop(error)
            if not self.is_away:
                self._outcomes.outage(error)
            self.is_away = True
            if self._at is not None and not self._prepares:
                self._at.answered.set()  # its pump need not wait for the claim
            return self._backoff.next()
        except Exception as error:  # noqa: BLE001 - a thread's error would be lost; the run raises it
            self.fatal = self.fatal or error
            return self._drop(error)
        if self.is_away:
            self._outcomes.outage(None)
        self.is_away = False
        self._backoff.reset()
        return pause

    def _step(self) -> float | None:
        """Send the next command of one job; return the seconds to wait then, None: until there is a job."""
        job, is_busy = self._handover.next(), bool(self._handover.jobs)
        self._at = job
        if is_busy and time.monotonic() - self._lived > _LIVE_EVERY:
            self._beat.live()
            self._lived = time.monotonic()
        if time.monotonic() - self._counted > _COUNT_EVERY:
            self._counted = time.monotonic()
            with suppress(redis.RedisError):  # the counts go with the next ones; an error of no job must not cost one
                self._beat.count(self._outcomes.totals())
        if job is None:
            return None
        if job.claim is None:
            self._claim(job)
            return 0.0
        if self._handover.needs_preparation(job):
            return self._prepare(job)
        return self._push(job)

    def _claim(self, job: Job) -> None:
        skip = bool(job.skipped)
        claim = self._beat.claim(job.tick, skip=skip)
        if claim == "yield":
            time.sleep(self._grace)  # pushes may wait as long: this concerns a newcomer's first ticks only
            claim = self._beat.claim(job.tick, insist=True, skip=skip)
        if claim == "unknown":
            self._outcomes.beat_lost()
            self._beat.start(self._clock())
            claim = self._beat.claim(job.tick, skip=skip)
        self._handover.claimed(job, claim)
        if skip or claim != "claimed":
            self._settle(job)
        if not self._handover.needs_preparation(job):
            job.answered.set()

    def _prepare(self, job: Job) -> float:
        """Read the cursor once the earlier runs have pushed, and count the call; return the seconds to wait for them."""
        if self._beat.cursor is not None:
            if self._is_first and (wait := self._wait_for_earlier(job.tick)):
                return wait
            self._is_first = False
            job.before = self._beat.cursor.read()
        if self._gate is not None and self._gate.limit and (wait := self._gate.take()):
            if self._is_patient and self._give_back(job, wait):
                return 0.0
            self._handover.abandon(job, self._timer(), f"the limit of {self._gate.limit} calls was reached")
        job.is_prepared = True
        job.answered.set()
        return 0.0

    def _push(self, job: Job) -> float:
        if self._is_first and (wait := self._wait_for_earlier(job.tick)):
            return wait
        self._is_first = False
        job.ids = []
        if job.skipped and self._is_patient and self._give_back(job, 0.0):
            return 0.0
        if job.error is None:
            try:
                self._push_entries(job)
            except TopicFullError as error:
                job.error = error
        if isinstance(job.error, RetryLater):
            if self._gate is not None:
                self._gate.pause(job.error.seconds)
            if self._is_patient and self._give_back(job, job.error.seconds):
                return 0.0
        self._beat.done(job.tick, pushed=bool(job.ids))
        self._settle(job)
        return 0.0

    def _give_back(self, job: Job, rest: float) -> bool:
        """Give a claimed tick back, to be claimed again after a rest; return False if that is not possible."""
        if not self._beat.give_back(job.tick):
            return False
        self._handover.claimed(job, "returned")
        self._settle(job, rest=rest)
        job.answered.set()
        return True

    def _push_entries(self, job: Job) -> None:
        move = None
        if self._beat.cursor and job.before and job.after is not None and job.after != job.before.memory:
            move = CursorMove(self._beat.cursor.key, job.before.version, job.after)
        if job.encoded:
            job.ids = self._beat.push(job.tick, job.encoded, move=move)
        elif move and not self._beat.move(job.tick, move):
            job.ids = None
        if job.ids is None and move and self._beat.cursor:
            job.is_moved = self._beat.cursor.read().version != move.version

    def _wait_for_earlier(self, tick: int) -> float:
        self._waiting_since = self._waiting_since or time.monotonic()
        alive, lost = self._beat.before(tick, wait=time.monotonic() - self._waiting_since < MAX_WAIT)
        if lost:
            self._outcomes.lost_before(lost)
        return _WAIT_FOR_EARLIER if alive else 0.0

    def _drop(self, error: Exception) -> float:
        """Give up the job that Redis refuses, and its claim, so that the next run need not wait for it."""
        job = self._at
        if job is None or not self._handover.refused(job, error):
            return _AFTER_ERROR
        job.answered.set()
        if job.claim == "claimed":
            with suppress(Exception):  # if that is refused as well, the claim stays; the job is dropped all the same
                self._beat.done(job.tick, pushed=bool(job.ids))
        self._settle(job)
        return 0.0

    def _settle(self, job: Job, *, rest: float = 0.0) -> None:
        if not self._handover.start_settling(job):
            return  # the run has ended, and counts it
        try:
            if job.claim == "returned":
                self._outcomes.given_back(job, rest=rest)
            else:
                self._outcomes.settle(job)
        finally:
            self._handover.settled(job)
