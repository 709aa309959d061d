"""Rests a pump that keeps failing, ever longer, and fails its run."""

import logging
from typing import Any, Literal, get_args

from tasks.base.backoff import doubled
from tasks.base.plain_text import error_line
from tasks.checks import check_choice
from tasks.errors import PumpError
from tasks.pump.summary import Summary

__all__ = ["LONGEST_REST", "Failing", "WhenFailing"]

# Most seconds between two calls of a pump that keeps failing.
LONGEST_REST = 30.0

WhenFailing = Literal["retry", "fail"]


class Failing:
    """The failed ticks of one run. From the `most`th in a row on, each failure doubles the time until the next call.

    The pusher's thread calls `failed` and `worked`; the run's thread reads the rest.

    name    name of the pump
    every   seconds between two ticks
    most    number of ticks that may fail in a row
    when    what the run does then: 'retry', it continues; 'fail', it fails at once
    fatal   the error that fails the run at once, if any
    """

    def __init__(
        self, name: str, *, every: float, most: int, when: WhenFailing, log: logging.Logger | logging.LoggerAdapter[Any]
    ) -> None:
        check_choice(when, get_args(WhenFailing), name="when_failing")
        self.fatal: PumpError | None = None
        self._name = name
        self._every = every
        self._most = most
        self._when = when
        self._log = log
        self._in_a_row = 0
        self._is_asked = False
        self._rest_ends = float("-inf")
        self._last: BaseException | None = None
        self._has_failed = False
        self._is_asked = False

    @property
    def is_asked(self) -> bool:
        """Return whether the source has asked for the current rest."""
        return self._is_asked

    @property
    def in_a_row(self) -> int:
        """Return how many ticks have failed in a row, if those are too many; else 0."""
        return self._in_a_row if self._in_a_row >= self._most else 0

    def is_resting(self, now: float) -> bool:
        """Return whether the pump must not be called now, on the clock of `failed`."""
        return now < self._rest_ends

    def failed(self, error: BaseException, *, ended: float) -> None:
        """Note a failed tick, whose call ended at that time."""
        self._is_asked = False
        self._in_a_row += 1
        self._last = error
        more = self._in_a_row - self._most
        if more < 0:
            return
        self._has_failed = True
        reason = f"pump {self._name!r} failed {self._in_a_row} times in a row, at last with {error_line(error)}"
        if self._when == "fail":
            self.fatal = PumpError(reason)
            self.fatal.__cause__ = error
            return
        if more == 0:
            self._log.warning("%s; it is called less often until it works, at least every %g s", reason, LONGEST_REST)
        self._rest_ends = ended + doubled(2 * self._every, more, longest=LONGEST_REST)

    def rest(self, seconds: float, *, ended: float) -> None:
        """Note a tick whose source asked to be called again later: it has not failed."""
        self._rest_ends = ended + seconds
        self._is_asked = True

    def worked(self) -> None:
        """Note a tick at which the pump worked: it is called at every tick again."""
        if self._in_a_row >= self._most:
            self._log.warning("pump %r works again, after %d failed ticks", self._name, self._in_a_row)
        self._in_a_row = 0
        self._is_asked = False
        self._rest_ends = float("-inf")

    def check(self, summary: Summary) -> None:
        """Raise PumpError if too many ticks failed in a row, and nothing was pushed."""
        if self._last is None or not self._has_failed or summary.pushed:
            return
        msg = (
            f"pump {self._name!r} pushed nothing in this run: of {summary.due} ticks {summary.failed} failed and "
            f"{summary.missed} were missed, at last with {error_line(self._last)}"
        )
        raise PumpError(msg) from self._last
