"""Hands the ticks of a run from the thread that schedules them to those that call the pump, and on to the pusher."""

import threading
from dataclasses import dataclass, field
from typing import Any

from tasks.pump.ticks import Claim
from tasks.reservoir.cursors import Memory, Remembered

__all__ = ["Handover", "Job"]


@dataclass(slots=True, eq=False)
class Job:
    """One tick on its way: claimed, pumped and pushed, or dropped.

    The run's thread writes:

    skipped   why the pump is not called; '': it is. A skipped tick is only claimed, so that exactly one run counts it
    began     when the pump call began, by the run's timer; None: it was not called

    The thread of the pump call writes, once; or the run's thread, when the call times out:

    ended     when the call ended; None: it has not
    value     what the pump returned, if the run emits it
    encoded   its entries, as they are pushed
    after     what the inlet remembers once they are pushed; None if it remembers nothing
    error     what the call raised; the pusher's thread: that the topic is full

    The pusher's thread writes:

    claim     None: Redis has not answered yet
    refusal   Redis' permanent refusal of the claim or the push
    ids       ids of the pushed entries; None: the push was refused, because the claim had been taken away
    before    the cursor as it was read for this call; None: it was not read yet, or the inlet remembers nothing
    is_prepared  whether its pump may be called: with a cursor, it was read; with a limit, the call was counted
    is_moved  whether the push was refused because the cursor was set during the call
    answered  set once the pump may be called: the claim is known, or will not be known for a while; with a cursor or a limit, once
              the job is prepared
    """

    tick: int
    skipped: str = ""
    began: float | None = None
    ended: float | None = None
    value: Any = None
    encoded: list[dict[bytes, bytes]] = field(default_factory=list)
    after: Memory | None = None
    error: BaseException | None = None
    claim: Claim | None = None
    refusal: Exception | None = None
    ids: list[str] | None = None
    before: Remembered | None = None
    is_prepared: bool = False
    is_moved: bool = False
    answered: threading.Event = field(default_factory=threading.Event)

    @property
    def bytes(self) -> int:
        """Return the size of the encoded entries."""
        return sum(len(name) + len(data) for fields in self.encoded for name, data in fields.items())


class Handover:
    """The jobs of a run that are not over, in tick order. All that its threads share is here, under one lock.

    Each job leaves once: through `start_settling`, and the pusher's thread counts it, or through `close`, and the run's does.

    prepares   whether the pusher has to prepare a job between its claim and its call
    """

    def __init__(self, *, prepares: bool = False) -> None:
        self.prepares = prepares
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._settling: Job | None = None
        self._is_closed = False

    @property
    def jobs(self) -> list[Job]:
        """Return the jobs that are not over, in tick order. Any thread."""
        with self._changed:
            return list(self._jobs)

    def add(self, job: Job) -> None:
        """Take a job in. The run's thread."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def begin(self, job: Job, at: float) -> bool:
        """Note that the pump is called for a job, unless its claim has failed; return whether it is. The run's thread."""
        with self._changed:
            if job.claim in (None, "claimed") and job.refusal is None and job.ended is None:
                job.began = at
            return job.began is not None

    def end(self, job: Job, at: float, **outcome: Any) -> bool:
        """Note what a pump call came to; return False if it had ended before. The call's thread, or the run's."""
        with self._changed:
            if job.ended is not None:
                return False
            for name, value in outcome.items():
                setattr(job, name, value)
            job.ended = at
            self._changed.notify()
            return True

    def close(self) -> list[Job]:
        """End the hand-over; return the jobs that nothing more happens to. The run's thread."""
        with self._changed:
            self._is_closed = True
            left, self._jobs = [job for job in self._jobs if job is not self._settling], []
            self._changed.notify()
            return left

    @property
    def is_closed(self) -> bool:
        """Return whether `close` was called. Any thread."""
        return self._is_closed

    def next(self) -> Job | None:
        """Return the next job to work on: the first without a claim, else the first to be prepared or whose pump has ended.

        The pusher's thread.
        """
        with self._changed:
            return self._next()

    def wait(self, longest: float, *, for_job: bool = False) -> None:
        """Wait for a change, `longest` seconds at most; with `for_job`, not at all if there is a next job.

        The pusher's thread.
        """
        with self._changed:
            if not (self._is_closed or (for_job and self._next() is not None)):
                self._changed.wait(longest)

    def claimed(self, job: Job, claim: Claim) -> None:
        """Note the answer to a claim. The pusher's thread."""
        with self._changed:
            job.claim = claim

    def refused(self, job: Job, refusal: Exception) -> bool:
        """Note that Redis refuses a job; return False if the job is over. The pusher's thread."""
        with self._changed:
            if job not in self._jobs:
                return False
            job.refusal, job.claim = refusal, job.claim or "refused"
            return True

    def start_settling(self, job: Job) -> bool:
        """Reserve a job for the pusher's thread to count; return False if the run has ended and counts it."""
        with self._changed:
            if job not in self._jobs:
                return False
            self._settling = job
            return True

    def settled(self, job: Job) -> None:
        """Remove a job that has been counted. The pusher's thread."""
        with self._changed:
            self._settling = None
            if job in self._jobs:
                self._jobs.remove(job)

    def uncalled(self) -> Job | None:
        """Return the first job whose pump is still to be called. The run's thread."""
        with self._changed:
            return next(
                (job for job in self._jobs if job.began is None and job.ended is None and not job.skipped), None
            )

    def abandon(self, job: Job, at: float, why: str) -> None:
        """End a job whose pump was not called; it is missed. Any thread."""
        with self._changed:
            if job.began is None and job.ended is None:
                job.skipped, job.ended = why, at
                self._changed.notify()

    def needs_preparation(self, job: Job) -> bool:
        """Return whether a job is to be prepared before its pump is called. The pusher's thread."""
        is_ours = not job.skipped and job.claim == "claimed" and job.ended is None
        return self.prepares and is_ours and not job.is_prepared

    def _next(self) -> Job | None:
        if unclaimed := next((job for job in self._jobs if job.claim is None), None):
            return unclaimed
        first = self._jobs[0] if self._jobs else None
        return first if first and (first.ended is not None or self.needs_preparation(first)) else None
