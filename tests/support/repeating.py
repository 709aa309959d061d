"""Work that is repeated in the background while a test does something else."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["repeating"]


@contextmanager
def repeating(act: Callable[[], None], *, every: float) -> Iterator[None]:
    """Call `act` in a thread within this context, with pauses of `every` seconds."""
    stopping = threading.Event()

    def go_on() -> None:
        while not stopping.wait(every):
            act()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
