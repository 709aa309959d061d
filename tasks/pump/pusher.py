"""What talks to Redis for a run of a pump: claims and pushes in tick order, in a thread that may wait for Redis."""

import contextvars
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis

from tasks.errors import TopicFullError
from tasks.pump.ticks import Beat, Claim
from tasks.reservoir.connection import is_outage

__all__ = ["Job", "Pusher"]

# How long the first push waits for ticks of an earlier run that lives: beyond, they are lost.
MAX_WAIT = 60.0
_LIVE_EVERY = 1.0


@dataclass(slots=True, eq=False)
class Job:
    """One tick: claimed, pumped and pushed, or dropped on the way.

    claim     None: not answered yet
    began     when its pump was started, by the run's timer; None: it was not
    ended     None: its pump is running
    refusal   what Redis refused of it for good
    skipped   why its pump is not called at all: then the claim is all there is to it
    ids       what was pushed; None: refused, the claim had been taken away
    """

    tick: int
    claim: Claim | None = None
    began: float | None = None
    ended: float | None = None
    value: Any = None
    encoded: list[dict[bytes, bytes]] = field(default_factory=list)
    error: BaseException | None = None
    ids: list[str] | None = None
    refusal: Exception | None = None
    skipped: str = ""
    answered: threading.Event = field(default_factory=threading.Event)

    @property
    def bytes(self) -> int:
        """Return the size of what was pumped."""
        return sum(len(name) + len(data) for fields in self.encoded for name, data in fields.items())


class Pusher:
    """Claims each job and pushes what it came to, in tick order; while Redis is away, jobs wait here.

    settled    called with each job that is over, in tick order, from the pusher's thread
    lost       called with how many ticks an earlier run had claimed and died over
    restart    called when Redis has lost the beat
    outage     called when Redis does not answer, with what it did instead, and with None when it answers again
    """

    def __init__(
        self,
        beat: Beat,
        *,
        settled: Callable[[Job], None],
        lost: Callable[[int], None],
        restart: Callable[[], None],
        outage: Callable[[Exception | None], None] = lambda _: None,
    ) -> None:
        self.away = False
        self.fatal: BaseException | None = None
        self._beat = beat
        self._settled = settled
        self._lost = lost
        self._restart = restart
        self._outage = outage
        self._grace = min(beat.every / 4, 0.1)
        self._jobs: list[Job] = []
        self._at: Job | None = None  # whose command is under way
        self._changed = threading.Condition()
        self._closed = False
        self._is_first = True
        self._waiting_since: float | None = None
        self._lived = 0.0
        # Prefect keeps the run's logger in the context.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), name="pusher", daemon=True)
        self._thread.start()

    @property
    def jobs(self) -> list[Job]:
        """Return the jobs that are not over, in tick order."""
        with self._changed:
            return list(self._jobs)

    def add(self, job: Job, *, patience: float, timer: Callable[[], float]) -> bool:
        """Take a job in, and return whether to begin its pump: it is claimed, or Redis does not say within `patience` seconds."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
        if job.skipped:
            return False
        if not self.away:
            job.answered.wait(patience)
        with self._changed:
            if job.claim in (None, "claimed"):
                job.began = timer()
        return job.began is not None

    def end(self, job: Job, at: float, **outcome: Any) -> bool:
        """Say what a job's pump came to; False if that had been said before."""
        with self._changed:
            if job.ended is not None:
                return False
            for name, value in outcome.items():
                setattr(job, name, value)
            job.ended = at
            self._changed.notify()
            return True

    def close(self) -> list[Job]:
        """Stop, and return the jobs that are left."""
        with self._changed:
            self._closed = True
            left, self._jobs = self._jobs, []
            self._changed.notify()
        return left

    def _run(self) -> None:
        pause = 0.05
        while not self._closed:
            try:
                wait = self._step()
                if self.away:
                    self._outage(None)
                self.away, pause = False, 0.05
            except redis.RedisError as error:
                if is_outage(error):
                    if not self.away:
                        self._outage(error)
                    self.away, wait, pause = True, pause, min(1.0, 2 * pause)
                    if self._at is not None:
                        self._at.answered.set()  # its pump need not wait for an answer any more
                else:
                    wait = self._drop(error)
            except Exception as error:  # noqa: BLE001 - a thread's error would be lost; the run raises it
                self.fatal = self.fatal or error
                wait = self._drop(error)
            with self._changed:
                if self._closed or wait == 0 or (wait is None and self._next() is not None):
                    continue
                self._changed.wait(_LIVE_EVERY if wait is None else wait)

    def _next(self) -> Job | None:
        unclaimed = next((job for job in self._jobs if job.claim is None), None)
        return unclaimed or (self._jobs[0] if self._jobs and self._jobs[0].ended is not None else None)

    def _step(self) -> float | None:
        """Do one job's next command, and return how long to wait then; None: until something comes."""
        with self._changed:
            job, busy = self._next(), bool(self._jobs)
            self._at = job
        if busy and time.monotonic() - self._lived > _LIVE_EVERY:
            self._beat.live()
            self._lived = time.monotonic()
        if job is None:
            return None
        if job.claim is None:
            self._take(job)
            return 0.0
        return self._finish(job)

    def _take(self, job: Job) -> None:
        skip = bool(job.skipped)
        claim = self._beat.claim(job.tick, skip=skip)
        if claim == "yield":
            time.sleep(self._grace)  # pushes may wait as long: it is a newcomer's first ticks only
            claim = self._beat.claim(job.tick, insist=True, skip=skip)
        if claim == "unknown":
            self._restart()
            claim = self._beat.claim(job.tick, skip=skip)
        with self._changed:
            job.claim = claim
            over = (skip or claim != "claimed") and job in self._jobs
        if over:
            self._settled(job)
            self._remove(job)
        job.answered.set()

    def _finish(self, job: Job) -> float:
        if self._is_first and (wait := self._wait_for_earlier(job.tick)):
            return wait
        self._is_first = False
        job.ids = []
        if job.error is None and job.encoded:
            try:
                job.ids = self._beat.push(job.tick, job.encoded)
            except TopicFullError as error:
                job.error = error
        self._beat.done(job.tick, pushed=bool(job.ids))
        self._settle(job)
        return 0.0

    def _wait_for_earlier(self, tick: int) -> float:
        self._waiting_since = self._waiting_since or time.monotonic()
        alive, lost = self._beat.before(tick, wait=time.monotonic() - self._waiting_since < MAX_WAIT)
        if lost:
            self._lost(lost)
        return 0.02 if alive else 0.0

    def _drop(self, error: Exception) -> float:
        """Give up the job that Redis refuses, for its own sake, and its claim: the next run need not wait for it."""
        with self._changed:
            job = self._at
            if job is None or job not in self._jobs:
                return 0.05
            job.refusal, job.claim = error, job.claim or "refused"
        job.answered.set()
        if job.claim == "claimed":
            with suppress(Exception):  # where that is refused as well, the claim stays: the job goes all the same
                self._beat.done(job.tick, pushed=bool(job.ids))
        self._settle(job)
        return 0.0

    def _settle(self, job: Job) -> None:
        with self._changed:
            if job not in self._jobs:
                return  # closed meanwhile
        try:
            self._settled(job)
        finally:
            self._remove(job)

    def _remove(self, job: Job) -> None:
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
