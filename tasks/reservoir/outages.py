"""Outages during a run: retry while Redis does not answer, or refuses commands that it allowed before."""

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
    """Retries for one member of `group`, with pauses that double.

    longest_pause    upper bound of a pause in seconds
    wait             waits for a number of seconds, or until the member stops
    explain          returns a refusal with the key and the remedy; default: the server's own text
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
        """Return whether `act` succeeded; if not, log each new reason once, and wait longer after each failure.

        raises    any error that is neither an outage nor a refusal that a person can remedy
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
            logger.warning("Redis answers again; group %r continues", self._group)
            self._backoff.reset()
            self._logged = ""
        return True

    def _text(self, error: Exception) -> str:
        if isinstance(error, redis.ResponseError) and is_refused(error):
            return f"{self._explain(error)}; group {self._group!r} tries again until it can continue"
        what = f"does not answer ({type(error).__name__})"
        if isinstance(error, redis.AuthenticationError):  # for example a changed password
            what = "refuses the user or password"
        return f"Redis {what}; group {self._group!r} tries again until it answers"
