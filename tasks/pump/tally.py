"""Counts and logs what becomes of a run's ticks, from any of its threads."""

import threading
from collections import Counter
from dataclasses import replace

from tasks.base.repeated_warnings import Repeated
from tasks.pump.summary import Summary

__all__ = ["Tally"]


class Tally:
    """The counts of one run. Any thread may call any method; each writes under one lock.

    pump    the pump's name, for the log
    """

    def __init__(self, pump: str, warn: Repeated) -> None:
        self._pump = pump
        self._warn = warn
        self._lock = threading.Lock()
        self._counts = Summary()

    def summary(self) -> Summary:
        """Return a copy of the counts, all of the same moment."""
        with self._lock:
            counts = self._counts
            return replace(
                counts, reasons=Counter(counts.reasons), seconds=counts.seconds.copy(), delays=counts.delays.copy()
            )

    def began(self, *, skew: float) -> None:
        """Note by how many seconds the clock was ahead of Redis' when the run began."""
        with self._lock:
            self._counts.skew = skew

    def ended(self, *, failing: int) -> None:
        """Note how many ticks had failed in a row when the run ended."""
        with self._lock:
            self._counts.failing = failing

    def called(self, *, delay: float) -> None:
        """Count a tick as due; the call of its pump began after so many seconds."""
        with self._lock:
            self._counts.due += 1
            self._counts.delays.append(delay)

    def uncalled(self) -> None:
        """Count a tick as not due after all: it was given back, and its call is repeated."""
        with self._lock:
            self._counts.due -= 1

    def took(self, seconds: float) -> None:
        """Note how long a pump call took."""
        with self._lock:
            self._counts.seconds.append(seconds)

    def pushed(self, entries: int, size: int) -> None:
        """Count a tick whose entries were pushed, `size` bytes."""
        with self._lock:
            self._counts.pushed += 1
            self._counts.entries += entries
            self._counts.bytes += size

    def had_nothing(self) -> None:
        """Count a tick at which the pump returned no entry."""
        with self._lock:
            self._counts.nothing += 1

    def missed(self, ticks: int, why: str, *, detail: str = "", due: bool = False) -> None:
        """Count ticks as missed; with `due`, also as due, if they were not counted as that before."""
        with self._lock:
            self._counts.reasons[why] += ticks
            self._counts.due += ticks if due else 0
        self._warn(f"pump {self._pump!r} missed ticks: {why}", ticks, detail=detail)

    def missed_behind(self, seconds: float, *, due: bool) -> None:
        """Count a tick as missed because ticks up to so many seconds ahead of the clock are claimed already."""
        why = "later ones are claimed, as the clock stepped back or another machine's is ahead"
        self.missed(1, why, detail=f"it is {seconds:.0f} s behind", due=due)

    def failed(self, what: str, *, detail: str, due: bool) -> None:
        """Count a failed tick; with `due`, also as due."""
        with self._lock:
            self._counts.failed += 1
            self._counts.due += due
        self._warn(what, detail=detail)

    def lost(self, ticks: int, *, due: bool = False) -> None:
        """Count ticks as lost; with `due`, also as due."""
        with self._lock:
            self._counts.lost += ticks
            self._counts.due += ticks if due else 0
        self._warn(
            f"pump {self._pump!r} lost ticks: the run that had claimed them died, or was suspended too long", ticks
        )

    def unattended(self, ticks: int) -> None:
        """Set the number of ticks before the run's first that no run had claimed or counted."""
        with self._lock:
            self._counts.unattended = ticks
        if ticks:
            self._warn(
                f"before the first tick of this run of pump {self._pump!r} no run had claimed or counted ticks", ticks
            )
