"""The alarms of an outlet's own group: behind, entries dropped unread, dead letters; all since its run began."""

import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from flows.runtime.alarm_lines import AlarmLines
from flows.runtime.group_lag import GroupLag
from flows.runtime.watched_outlet import WatchedOutlet
from tasks.reservoir.alarms import Alarm, alarms_of
from tasks.reservoir.history import Sample
from tasks.reservoir.levels import GroupLevel, TopicLevel

__all__ = ["OutletAlarms"]

_EVERY = 10.0  # seconds between two looks at the topics


class OutletAlarms:
    """Looks at the levels of an outlet's topics, and logs alarms as they come and go. The watch's thread uses it.

    current   the alarms as of the last look
    """

    def __init__(self, outlet: WatchedOutlet, lag: GroupLag, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self.current: list[Alarm] = []
        self._outlet = outlet
        self._lag = lag
        self._lines = AlarmLines(log)
        self._began: Sample | None = None
        self._next = float("-inf")

    def check(self) -> None:
        """Look at the topics if this is due."""
        if self._outlet.followed is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY
        own = [replace(level, groups=tuple(self._own(level.groups))) for level in self._lag.levels()]
        self._began = self._began or _sample(own)
        self.current = list(alarms_of(own, self._began))
        # The line of the outlet's counts is a warning already while entries fail.
        self._lines.update(alarm for alarm in self.current if alarm.event != "sluice.entry.dead")

    def _own(self, groups: Iterable[GroupLevel]) -> Iterable[GroupLevel]:
        return (group for group in groups if group.name == self._outlet.group)


def _sample(levels: Iterable[TopicLevel]) -> Sample:
    groups = [((level.topic, group.name), group) for level in levels for group in level.groups]
    return Sample(
        datetime.now(UTC),
        lags={},
        dead={who: group.dead + group.dead_dropped for who, group in groups},
        spilled={who: group.spilled for who, group in groups},
    )
