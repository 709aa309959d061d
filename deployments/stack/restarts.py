"""When to start a child again that has ended: at once, and after repeated ends ever later."""

import time
from collections.abc import Callable

__all__ = ["Restarts"]

_LONGEST = 60.0  # seconds between an end and the restart
_WELL = 60.0  # seconds after a restart without an end, after which the pauses begin anew


class Restarts:
    """The restarts of children, by name. The first follows at once, later ones after 2, 4, 8 ... 60 s.

    A file that is being edited, or a full disk, makes each start fail for a while; the other children go on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}
        self._in_a_row: dict[str, int] = {}
        self._started: dict[str, float] = {}

    def is_new(self, name: str) -> bool:
        """Return whether the end of a child was not noted yet."""
        return name not in self._due

    def ended(self, name: str) -> float:
        """Note the end of a child, or a start that failed; return the seconds until the next start."""
        now = self._clock()
        if now - self._started.get(name, float("-inf")) > _WELL:
            self._in_a_row[name] = 0
        before = self._in_a_row.get(name, 0)
        self._in_a_row[name] = before + 1
        wait = min(2.0**before, _LONGEST) if before else 0.0
        self._due[name] = now + wait
        return wait

    def take(self, name: str) -> bool:
        """Return whether a child that has ended is to be started now; if so, count it as started."""
        now = self._clock()
        if now < self._due[name]:
            return False
        del self._due[name]
        self._started[name] = now
        return True
