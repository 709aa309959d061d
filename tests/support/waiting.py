"""Polling with a deadline for the work of other threads and processes."""

import time
from collections.abc import Callable

__all__ = ["wait_until"]

_REST = 10  # pause in multiples of a check's duration: the awaited work may need the same cores
_SHORTEST, _LONGEST = 0.01, 0.5  # bounds of the pause in seconds


def wait_until(condition: Callable[[], object], what: str, *, deadline: float = 120.0) -> None:
    """Return once `condition` is true; fail after `deadline` seconds, with `what` in the message.

    Expensive conditions, such as requests to Prefect's server, are checked less often.
    """
    end = time.monotonic() + deadline
    while True:
        began = time.monotonic()
        if condition():
            return
        now = time.monotonic()
        assert now < end, f"waited {deadline:g} s for {what}"
        time.sleep(min(max(_REST * (now - began), _SHORTEST), _LONGEST))
