"""Frequent warnings: the first is logged at once, later ones are counted and summed up once a minute."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

__all__ = ["Repeated"]


class Repeated:
    """Logs warnings, at most one line per `every` seconds; warnings in between are counted. Thread-safe.

    >>> lines = []
    >>> class Log:
    ...     warning = staticmethod(lambda text, *args: lines.append(text % args))
    >>> warn = Repeated(Log())
    >>> warn("missed"); warn("missed", 2); warn("failed", detail="tick 7"); warn.flush()
    >>> lines
    ['missed', 'missed (2 times); failed, at last tick 7']
    """

    def __init__(
        self,
        log: logging.Logger | logging.LoggerAdapter[Any],
        *,
        every: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._every = every
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._details: dict[str, str] = {}
        self._due = float("-inf")

    def __call__(self, what: str, n: int = 1, *, detail: str = "") -> None:
        """Log `what`, or count it for the next line."""
        with self._lock:
            self._counts[what] += n
            if detail:
                self._details[what] = detail
            is_due = self._clock() >= self._due
        if is_due:
            self.flush()

    def flush(self) -> None:
        """Log all counted warnings in one line; nothing if there are none."""
        with self._lock:
            parts = [self._summary(what, n) for what, n in self._counts.items()]
            self._counts.clear()
            self._details.clear()
            self._due = self._clock() + self._every
        if parts:
            self._log.warning("%s", "; ".join(parts))

    def _summary(self, what: str, n: int) -> str:
        times = f" ({n} times)" if n > 1 else ""
        return what + times + (f", at last {self._details[what]}" if what in self._details else "")
