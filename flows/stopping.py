"""How a run is stopped: by a signal, with time to finish what is under way."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["stop_on_signals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Give an event that SIGTERM (a cancel in the Prefect UI) and SIGINT set, instead of ending the run at once.

    Prefect's own handler raises in the middle of whatever runs; this one lets the run drain and return. Outside the
    main thread, where no handler can be set, the event is set by nobody.
    """
    stop = threading.Event()

    def handle(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the handler's signature
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.signal(s, handle) for s in _SIGNALS}
    try:
        yield stop
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
