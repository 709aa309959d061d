"""The windows that a time belongs to, in milliseconds since the epoch.

Without a zone, windows begin at multiples of `every` since the epoch, in UTC. In a zone, they begin anew at each midnight there, so
that a day has 23 to 25 hours where clocks change, and a window that would reach beyond midnight ends there. Windows that overlap do
reach beyond it; those of whole days end at midnight, too.
"""

import datetime as dt
from functools import lru_cache
from zoneinfo import ZoneInfo

from tasks.errors import SettingsError

__all__ = ["Grid"]

_DAY = 86_400_000
_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()


class Grid:
    """Windows of one size.

    size    in ms
    every   ms from the beginning of a window to that of the next: windows overlap if it is less than `size`
    zone    where the days of the windows begin; None: UTC, and no window ends because of midnight
    raises  SettingsError: windows with gaps between them, or of more than a day that is not a number of days
    """

    def __init__(self, size: int, every: int | None = None, zone: ZoneInfo | None = None) -> None:
        self.size, self.every = size, size if every is None else every
        if self.every > size:
            msg = f"every: expected at most the size of the windows, {size} ms, got {self.every} ms, which leaves gaps between windows"
            raise SettingsError(msg)
        if zone is not None and self.every > _DAY and self.every % _DAY:
            msg = f"size, every: expected at most a day, or whole days, for windows in a zone, got {self.every} ms"
            raise SettingsError(msg)
        self._zone = zone
        self._period = 0, 0
        self._latest: tuple[int, int, list[int]] = 0, 0, []
        self._of_zone = lru_cache(maxsize=64)(self._find_period)
        self._is_of_days = zone is not None and self.every >= _DAY and size % _DAY == 0
        self._last_midnight = lru_cache(maxsize=64)(self._find_last_midnight)

    def starts(self, time: int) -> list[int]:
        """Return the beginnings of all windows that contain a time, the latest first. The list is not to be changed."""
        begins, ends, found = self._latest
        if begins <= time < ends:  # nearly all times follow one of their window
            return found
        start = self.start(time)
        if self.every == self.size:
            self._latest = start, self.end(start), [start]
            return self._latest[2]
        found = []
        while self.end(start) > time:
            found.append(start)
            start = self.start(start - 1)
        return found

    def start(self, time: int) -> int:
        """Return the beginning of the latest window that contains a time."""
        if self._zone is None:
            return time - time % self.every
        begins, _ = self._around(time)
        return begins if self.every >= _DAY else time - (time - begins) % self.every

    def end(self, start: int) -> int:
        """Return the end of the window with this beginning, which does not belong to it."""
        if self._is_of_days:
            return self._last_midnight(start)
        if self._zone is None or self.every != self.size:
            return start + self.size
        return min(start + self.size, self._around(start)[1])

    def _around(self, time: int) -> tuple[int, int]:
        """Return the beginning and the end of the day in the zone that contains a time, or of the days of one window."""
        if not self._period[0] <= time < self._period[1]:
            utc = dt.datetime.fromtimestamp(time // 1000, self._zone)
            self._period = self._of_zone(utc.date().toordinal())
        return self._period

    def _find_period(self, day: int) -> tuple[int, int]:
        days = max(1, self.every // _DAY)
        first = day - (day - _EPOCH_DAY) % days
        return self._midnight(first), self._midnight(first + days)

    def _find_last_midnight(self, start: int) -> int:
        first = dt.datetime.fromtimestamp(start // 1000, self._zone).date().toordinal()
        return self._midnight(first + self.size // _DAY)

    def _midnight(self, day: int) -> int:
        """Return the first moment of a day: where clocks skip midnight, that is a later hour."""
        assert self._zone is not None
        local = dt.datetime.combine(dt.date.fromordinal(day), dt.time(), self._zone)
        moment = round(local.timestamp())
        while dt.datetime.fromtimestamp(moment, self._zone).date().toordinal() < day:  # midnight does not exist
            moment += 60
        return 1000 * moment
