"""The alarms of one run, in its own log: a warning when each begins, and a line when it is over."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from tasks.reservoir.alarms import Alarm

__all__ = ["AlarmLines"]

_AGAIN = 60.0  # seconds between two lines of one alarm whose number of lost entries grows
_OVER = 60.0  # seconds without an alarm after which it is over: a lag near its limit must not fill the log
_LOSSES = frozenset({"sluice.entry.dead", "sluice.reservoir.spilled"})


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
        self._logged: dict[tuple[str, str, str], tuple[int, float]] = {}
        self._seen: dict[tuple[str, str, str], float] = {}

    def update(self, alarms: Iterable[Alarm]) -> None:
        """Log the alarms that are new, and those that have been over for a minute."""
        self.current = list(alarms)
        now = self._clock()
        for alarm in self.current:
            key = alarm.event, alarm.topic, alarm.name
            self._seen[key] = now
            entries, at = self._logged.get(key, (0, float("-inf")))
            has_grown = alarm.event in _LOSSES and alarm.entries > entries and now - at >= _AGAIN
            if key not in self._logged or has_grown:
                self._log.warning("%s; %s", alarm.message, alarm.remedy)
                self._logged[key] = alarm.entries, now
        for key in [key for key, seen in self._seen.items() if now - seen >= _OVER]:
            del self._logged[key], self._seen[key]
            self._log.info("over: the alarm %s of %r on topic %r", key[0], key[2], key[1])
