"""Signals that stop `sluice up`: the first one stops it, later ones stop it at once."""

import signal
from types import FrameType
from typing import Self

__all__ = ["Interrupts"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # HUP: the terminal was closed


class Interrupts:
    """Counts signals, and raises KeyboardInterrupt at the first one after each arming."""

    def __init__(self) -> None:
        self.count = 0
        self._armed = True
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def arm(self) -> None:
        """Raise at the next signal."""
        self._armed = True

    def disarm(self) -> None:
        """Only count signals from now on."""
        self._armed = False

    def impatient(self) -> bool:
        """Return whether a second signal has arrived."""
        return self.count > 1

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt
