"""Waiting for what another thread or process does: with a deadline, and a word on what did not come."""

import time
from collections.abc import Callable

__all__ = ["wait_until"]


def wait_until(condition: Callable[[], object], what: str, *, deadline: float = 20.0) -> None:
    """Return once `condition` is true; fail with `what` was waited for after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"waited {deadline:g} s for {what}"
        time.sleep(0.01)  # the poll itself
