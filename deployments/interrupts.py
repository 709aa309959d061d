"""Ctrl-C and its relatives: the first one ends what is going on, the next ones hasten the end."""

import signal
from types import FrameType
from typing import Self

__all__ = ["Interrupts"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # HUP: the terminal was closed


class Interrupts:
    """Raises KeyboardInterrupt at the first signal, until `hold` is called; then only counts them."""

    def __init__(self) -> None:
        self.count = 0
        self._held = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def hold(self) -> None:
        """From now on only count: an orderly stop is on its way."""
        self._held = True

    def impatient(self) -> bool:
        """Tell whether there was a second one."""
        return self.count > 1

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if not self._held:
            self._held = True
            raise KeyboardInterrupt
