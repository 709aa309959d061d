"""Outlasting a Redis that does not answer for a while, under way."""

from collections.abc import Callable

import redis

from tasks.connection import is_outage
from tasks.logs import get_logger

__all__ = ["Outages"]

logger = get_logger(__name__)

_MAX_PAUSE = 5.0  # seconds


class Outages:
    """The outages that one member of `group` goes through.

    longest_pause    seconds between two tries, at most
    wait             waits for so many seconds, or until there is nothing to wait for any more
    """

    def __init__(self, group: str, *, longest_pause: float, wait: Callable[[float], object]) -> None:
        self._group = group
        self._longest_pause = min(_MAX_PAUSE, longest_pause)
        self._wait = wait
        self._pause = 0.0

    def pass_through(self, act: Callable[[], None]) -> bool:
        """Return whether `act` came through; if Redis did not answer, say so once and wait a little, ever longer."""
        try:
            act()
        except Exception as error:
            if not is_outage(error):
                raise
            if not self._pause:
                is_refused = isinstance(error, redis.AuthenticationError)  # as where it was changed meanwhile
                what = "refuses the user or password" if is_refused else f"does not answer ({type(error).__name__})"
                logger.warning("Redis %s; group %r tries again until it answers", what, self._group)
            self._pause = min(self._longest_pause, max(0.1, self._pause * 2))
            self._wait(self._pause)
            return False
        if self._pause:
            logger.warning("Redis answers again; group %r goes on", self._group)
            self._pause = 0.0
        return True
