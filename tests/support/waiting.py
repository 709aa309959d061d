"""Waiting for what another thread or process does: with a deadline, and a word on what did not come."""

import time
from collections.abc import Callable

__all__ = ["wait_until"]

_REST = 10  # times as long as a look took: what is waited for may need the same two cores
_SHORTEST, _LONGEST = 0.01, 0.5  # seconds of it


def wait_until(condition: Callable[[], object], what: str, *, deadline: float = 60.0) -> None:
    """Return once `condition` is true; fail with `what` was waited for after `deadline` seconds.

    The more a look costs, the longer until the next one: a question to Prefect's server costs it more than the answer
    is worth a hundred times a second.
    """
    end = time.monotonic() + deadline
    while True:
        began = time.monotonic()
        if condition():
            return
        now = time.monotonic()
        assert now < end, f"waited {deadline:g} s for {what}"
        time.sleep(min(max(_REST * (now - began), _SHORTEST), _LONGEST))  # the poll itself
