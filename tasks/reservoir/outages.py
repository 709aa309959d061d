"""Outlasting a Redis that does not answer for a while, or refuses what it allowed before, under way."""

from collections.abc import Callable

import redis

from tasks.base.backoff import Backoff
from tasks.base.logs import get_logger
from tasks.reservoir.connection import is_outage
from tasks.reservoir.refusals import is_refused

__all__ = ["Outages"]

logger = get_logger(__name__)

_MAX_PAUSE = 5.0  # seconds


class Outages:
    """The outages that one member of `group` goes through.

    longest_pause    seconds between two tries, at most
    wait             waits for so many seconds, or until there is nothing to wait for any more
    explain          returns what the server refuses, with the key and what to do; default: as the server puts it
    """

    def __init__(
        self,
        group: str,
        *,
        longest_pause: float,
        wait: Callable[[float], object],
        explain: Callable[[redis.ResponseError], object] = str,
    ) -> None:
        self._group = group
        self._explain = explain
        self._logged = ""
        self._backoff = Backoff(first=0.1, longest=min(_MAX_PAUSE, longest_pause))
        self._wait = wait

    def pass_through(self, act: Callable[[], None]) -> bool:
        """Return whether `act` came through; if not, wait a little, ever longer, and log why, once for each reason.

        raises    what will not pass: neither an outage, nor a refusal that a person can mend
        """
        try:
            act()
        except Exception as error:
            if not is_outage(error) and not is_refused(error):
                raise
            if (text := self._text(error)) != self._logged:
                self._logged = text
                logger.warning("%s", text)
            self._wait(self._backoff.next())
            return False
        if self._backoff.tries:
            logger.warning("Redis answers again; group %r goes on", self._group)
            self._backoff.reset()
            self._logged = ""
        return True

    def _text(self, error: Exception) -> str:
        if isinstance(error, redis.ResponseError) and is_refused(error):
            return f"{self._explain(error)}; group {self._group!r} tries again until it can go on"
        what = f"does not answer ({type(error).__name__})"
        if isinstance(error, redis.AuthenticationError):  # as where it was changed meanwhile
            what = "refuses the user or password"
        return f"Redis {what}; group {self._group!r} tries again until it answers"
