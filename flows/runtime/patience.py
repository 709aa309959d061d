"""Waits for Redis or Dask at the start of a run. Running streams and pumps outlast outages by themselves."""

import logging
import time
from collections.abc import Callable
from typing import Any

import redis

from tasks.base.backoff import Backoff
from tasks.errors import UnavailableError
from tasks.reservoir.connection import is_outage

__all__ = ["Patience"]

_LONGEST_PAUSE = 2.0  # seconds between two tries


class Patience:
    """Waits between a run's tries to reach Redis or Dask, until `end` on the monotonic clock.

    pause    waits for a number of seconds, or until the run is to stop
    """

    def __init__(
        self,
        end: float,
        log: logging.Logger | logging.LoggerAdapter[Any],
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._end = end
        self._log = log
        self._wait = pause
        self._backoff = Backoff(first=0.25, longest=_LONGEST_PAUSE)

    def allows_retry(self, error: UnavailableError) -> bool:
        """Pause, and return True; return False if the error is permanent or the time is over. Log the first error."""
        left = self._end - time.monotonic()
        if left <= 0 or not _passes(error):
            return False
        if not self._backoff.tries:
            self._log.warning("%s; trying again until it does", error)
        self._wait(min(self._backoff.next(), left))
        return True


def _passes(error: UnavailableError) -> bool:
    """Return whether the server may become available, and needs no other user or password for it."""
    cause = error.__cause__
    if isinstance(cause, OSError):  # of a Dask scheduler
        return True
    return isinstance(cause, Exception) and is_outage(cause) and not isinstance(cause, redis.AuthenticationError)
