"""Decides what became of each tick, once its claim has failed or its push was answered."""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from tasks.base.plain_text import error_line
from tasks.base.repeated_warnings import Repeated
from tasks.errors import RetryLater, TopicFullError
from tasks.pump.failing import Failing
from tasks.pump.handover import Job
from tasks.pump.returned import Entries
from tasks.pump.tally import Tally
from tasks.pump.ticks import Beat, is_far_ahead, time_of

__all__ = ["ASKED_TO_WAIT", "OnPushed", "Outcomes"]

ASKED_TO_WAIT = "the source asked to be called later"

OnPushed = Callable[[list[str], Entries], None]


class Outcomes:
    """Counts each job of a run as one outcome, in tick order. All methods run in the pusher's thread.

    It writes, and the run's thread reads:

    is_relieved   whether a later run has claimed ticks
    returned      ticks that were given back, which the run's thread takes out
    """

    def __init__(
        self,
        name: str,
        beat: Beat,
        tally: Tally,
        failing: Failing,
        warn: Repeated,
        *,
        clock: Callable[[], float],
        timer: Callable[[], float],
        on_pushed: OnPushed | None,
    ) -> None:
        self.is_relieved = False
        self.returned: deque[int] = deque()
        self._name = name
        self._beat = beat
        self._tally = tally
        self._failing = failing
        self._warn = warn
        self._clock = clock
        self._timer = timer
        self._on_pushed = on_pushed
        self._has_claimed = False

    def settle(self, job: Job) -> None:
        """Count what became of a job."""
        if job.claim == "relieved":
            self.is_relieved = True
        if job.claim == "refused" and job.skipped:
            self._tally.missed(1, job.skipped, due=True)
        elif job.claim == "refused" and job.refusal is not None:
            self._failed(job, job.refusal, due=job.began is None)
        elif job.claim != "claimed":
            self._not_claimed(job)
        else:
            self.count_unattended()
            self._claimed(job)

    def _claimed(self, job: Job) -> None:
        if job.skipped:
            self._tally.missed(1, job.skipped, due=True)
            return
        if job.began is not None and job.ended is not None:
            self._tally.took(job.ended - job.began)
        if isinstance(job.error, TopicFullError):
            self._tally.missed(1, "the topic is full")
        elif isinstance(job.error, RetryLater):
            self._failing.rest(job.error.seconds, ended=self._timer() if job.ended is None else job.ended)
            self._tally.missed(1, ASKED_TO_WAIT, detail=str(job.error))
        elif (error := job.refusal or job.error) is not None:
            self._failed(job, error, due=job.began is None)
        else:
            self._failing.worked()
            self._pushed(job)

    def _pushed(self, job: Job) -> None:
        if job.is_moved:
            self._tally.missed(1, "the cursor was moved during the call, by hand or by another run")
        elif job.ids is None:
            self._tally.lost(1)
        elif job.ids:
            self._tally.pushed(len(job.ids), job.bytes)
            if self._on_pushed is not None:
                self._on_pushed(job.ids, job.value)
        else:
            self._tally.had_nothing()

    def _not_claimed(self, job: Job) -> None:
        """Count a missed tick, except one that another run had in time, or that a relieved run would have had."""
        is_new = job.began is None
        if job.claim == "ahead":
            self._tally.missed(1, "this machine's clock is too far ahead of Redis'", due=is_new)
        elif job.claim == "taken" and is_far_ahead(self._beat.last, self._beat.every, self._clock()):
            self._tally.missed_behind(time_of(self._beat.last, self._beat.every) - self._clock(), due=is_new)
        elif not is_new:
            self._tally.missed(1, "another run had it, or a later one")

    def _failed(self, job: Job, error: BaseException, *, due: bool = False) -> None:
        at = datetime.fromtimestamp(time_of(job.tick, self._beat.every), UTC).isoformat()
        what = f"Redis refuses ticks of pump {self._name!r}" if job.refusal else f"pump {self._name!r} failed"
        self._tally.failed(what, detail=f"tick {job.tick} ({at}): {error_line(error)}", due=due)
        self._failing.failed(error, ended=self._timer() if job.ended is None else job.ended)

    def given_back(self, job: Job, *, rest: float) -> None:
        """Let a tick be claimed again, after a rest; it is not counted."""
        if rest:
            self._failing.rest(rest, ended=self._timer() if job.ended is None else job.ended)
        if job.began is not None:
            self._tally.uncalled()
        self.returned.append(job.tick)

    def totals(self) -> dict[str, int]:
        """Return the counts so far."""
        return self._tally.summary().totals

    def count_unattended(self) -> None:
        """Count, once, the ticks before the run's first that no run had. Also called after the pusher's thread has ended."""
        if not self._has_claimed:
            self._has_claimed = True
            self._tally.unattended(self._beat.unattended or 0)

    def lost_before(self, ticks: int) -> None:
        """Count ticks that an earlier run had claimed before it died."""
        self._tally.lost(ticks, due=True)

    def outage(self, error: Exception | None) -> None:
        """Log that Redis does not answer, because of `error`, or that it answers again."""
        if error is None:
            self._warn(f"Redis answers pump {self._name!r} again")
        else:
            what = f"Redis does not answer pump {self._name!r}; it continues, and its entries wait in memory"
            self._warn(what, detail=type(error).__name__)

    def beat_lost(self) -> None:
        """Log that Redis has lost the beat, and that this run starts it again."""
        self._warn(f"the beat of pump {self._name!r} is missing from Redis (flushed?); this run starts it again")
