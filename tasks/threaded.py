"""A streamz source whose work is done in a thread of its own."""

import logging
import threading
from concurrent.futures import Future
from typing import Any

from streamz.sources import Source

from tasks.errors import SluiceError

__all__ = ["ThreadedSource"]

logger = logging.getLogger(__name__)


class ThreadedSource(Source):
    """A source whose work is done in a thread of its own and ends in `outcome`, so that a pipeline that blocks its
    loop does not keep the source from living on, and stopping one source stops no other.
    """

    def __init__(self, *, start: bool, **kwargs: Any) -> None:
        self.outcome: Future[None] = Future()
        self._stopping = threading.Event()
        super().__init__(start=False, **kwargs)
        if start:
            self.start()

    def start(self) -> None:
        """Start, or start again after a stop. Raises what is wrong with the address or the server."""
        if not self.stopped:
            return
        self._prepare()
        self.stopped, self.started = False, True
        self.outcome = Future()
        self._stopping.clear()
        threading.Thread(target=self._run_thread, name=repr(self), daemon=True).start()

    def stop(self) -> None:
        """Ask to stop; `join` waits until it has."""
        self.stopped = True
        self._stopping.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the source has ended. Raises what ended it, if that was an error, and TimeoutError."""
        self.outcome.result(timeout)

    def _prepare(self) -> None:
        raise NotImplementedError

    def _work(self) -> None:
        raise NotImplementedError

    def _run_thread(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - it is handed on, to whoever asks for the outcome
            logger.error("%r stopped: %s", self, error, exc_info=not isinstance(error, SluiceError))
            self.stopped = True
            self.outcome.set_exception(error)
        else:
            self.stopped = True
            self.outcome.set_result(None)
