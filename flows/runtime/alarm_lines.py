"""The alarms of one run, in its own log: a warning when each begins, and a line when it is over."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tasks.reservoir.alarms import Alarm

__all__ = ["AlarmLines"]

_AGAIN = 60.0  # seconds between two lines of one alarm whose number of lost entries grows
_OVER = 60.0  # seconds without an alarm after which it is over: a lag near its limit must not fill the log
_LOSSES = frozenset({"sluice.entry.dead", "sluice.reservoir.spilled"})


class _Known(NamedTuple):
    """An alarm that is not over: when it was last there, and the entries and the time of its last line."""

    seen: float
    entries: int
    logged: float


class AlarmLines:
    """Logs the alarms of a run as they come and go. The watch's thread uses it.

    current   the alarms as of the last call
    """

    def __init__(
        self,
        log: logging.Logger | logging.LoggerAdapter[Any],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current: list[Alarm] = []
        self._log = log
        self._clock = clock
        self._known: dict[tuple[str, str, str], _Known] = {}

    def update(self, alarms: Iterable[Alarm]) -> None:
        """Log the alarms that are new, and those that have been over for a minute."""
        self.current = list(alarms)
        now = self._clock()
        for alarm in self.current:
            key = alarm.event, alarm.topic, alarm.name
            known = self._known.get(key)
            if known is None or (
                alarm.event in _LOSSES and alarm.entries > known.entries and now - known.logged >= _AGAIN
            ):
                self._log.warning("%s; %s", alarm.message, alarm.remedy)
                self._known[key] = _Known(now, alarm.entries, now)
            else:
                self._known[key] = known._replace(seen=now)
        for key in [key for key, known in self._known.items() if now - known.seen >= _OVER]:
            del self._known[key]
            self._log.info("over: the alarm %s of %r on topic %r", key[0], key[2], key[1])
