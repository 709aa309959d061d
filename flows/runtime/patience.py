"""Waiting for a Redis that is away when a run starts; later, streams and pumps outlast outages by themselves."""

import logging
import time
from collections.abc import Callable
from typing import Any

import redis

from tasks.errors import UnavailableError
from tasks.reservoir.connection import is_outage

__all__ = ["Patience"]

_LONGEST_PAUSE = 2.0  # seconds between two tries


class Patience:
    """A run's patience with a Redis that is away: it ends at `end`, on the monotonic clock.

    pause    waits for so many seconds, or until the run is to stop
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
        self._pause = 0.0

    def bears(self, error: UnavailableError) -> bool:
        """Return whether to try again, after a pause; not if the error will not pass, or patience has ended.

        Says so the first time.
        """
        left = self._end - time.monotonic()
        if left <= 0 or not _passes(error):
            return False
        if not self._pause:
            self._log.warning("%s; trying again until it does", error)
        self._pause = min(_LONGEST_PAUSE, max(0.25, 2 * self._pause))
        self._wait(min(self._pause, left))
        return True


def _passes(error: UnavailableError) -> bool:
    """Return whether a server that is not available may be so later, and not only for another user or password."""
    cause = error.__cause__
    return isinstance(cause, Exception) and is_outage(cause) and not isinstance(cause, redis.AuthenticationError)
