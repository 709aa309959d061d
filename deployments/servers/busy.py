"""Distinguishes a busy server from a blocked one by its CPU time."""

import time
from collections.abc import Callable

import psutil

__all__ = ["Busy", "cpu_of_program"]

_SHARE = 0.05  # of a core: a blocked server collects garbage, which takes 1 to 2 %
_OVER = 5.0  # seconds between two readings


class Busy:
    """Whether a process works, judged by its CPU time since an earlier question.

    cpu   returns the process's CPU seconds so far; None if they are unknown
    """

    def __init__(self, cpu: Callable[[], float | None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cpu = cpu
        self._clock = clock
        self._before: tuple[float, float] | None = None

    def reset(self) -> None:
        """Forget earlier readings."""
        self._before = None

    def is_idle(self) -> bool:
        """Return whether the process took next to no CPU since the last reading, made five seconds ago or more."""
        now, cpu = self._clock(), self._cpu()
        if cpu is None:
            return True
        if self._before is None:
            self._before = now, cpu
            return False
        since, spent = self._before
        if now - since < _OVER:
            return False
        self._before = now, cpu
        return cpu - spent < _SHARE * (now - since)


def cpu_of_program(words: tuple[str, ...], root: int | None) -> float | None:
    """Return the CPU seconds of processes with all these words among their arguments, or of `root`, the larger; None if none runs."""
    found: list[float] = []
    for process in psutil.process_iter(["cmdline", "cpu_times"]):
        times, arguments = process.info["cpu_times"], process.info["cmdline"] or []
        if times and (process.pid == root or all(word in arguments for word in words)):
            found.append(times.user + times.system)
    return max(found, default=None)
