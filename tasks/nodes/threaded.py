"""A streamz source whose work is done in a thread of its own."""

import contextvars
import threading
from concurrent.futures import Future
from typing import Any, Protocol

from streamz.sources import Source

from tasks.base.logs import get_logger
from tasks.errors import SluiceError
from tasks.pipeline import lifetimes

__all__ = ["Run", "ThreadedSource"]

logger = get_logger(__name__)


class Run(Protocol):
    """What a source does from a start to a stop, with all the state of it."""

    def run(self) -> Any:
        """Work until stopped, and raise what else ended it."""

    def stop(self) -> None:
        """Ask `run` to return; it may take its time."""


class ThreadedSource(Source):
    """A source that works in a thread of its own.

    So a pipeline that blocks its loop does not keep the source from living on, and stopping one stops no other.

    outcome     done when the run has ended, with the error that ended it, if one did
    is_running  whether it has been started, and its run has not ended
    """

    is_running = False

    def __init__(self, *, start: bool, **kwargs: Any) -> None:
        self.outcome: Future[None] = Future()
        self._current: Run | None = None
        self._thread: threading.Thread | None = None
        super().__init__(start=False, **kwargs)
        if start:
            self.start()

    def start(self) -> None:
        """Start, or start again after a stop. Raises what is wrong with the address, the server or the graph."""
        if not self.stopped:
            return
        if self._thread is not None:
            self._thread.join()  # until then it has in hand what it read
        run = self._begin()
        self._current, self.outcome = run, Future()
        self.stopped, self.started, self.is_running = False, True, True
        lifetimes.begin(self)
        # What the pipeline calls sees the context variables of the start: Prefect's run, say.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._work, run, self.outcome), name=repr(self), daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Ask to stop; `join` waits until it has."""
        self.stopped = True
        if self._current is not None:
            self._current.stop()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the source has ended. Raises what ended it, if that was an error, and TimeoutError."""
        self.outcome.result(timeout)

    def let_go(self) -> None:
        """Let go of the graph and of what else a run needs; the source can be started again."""
        self.is_running = False
        lifetimes.end(self)

    def _begin(self) -> Run:
        """Return what is to be run from a start on."""
        raise NotImplementedError

    def _work(self, run: Run, outcome: "Future[None]") -> None:
        try:
            run.run()
        except BaseException as error:
            logger.error("%r stopped: %s", self, error, exc_info=not isinstance(error, SluiceError))  # noqa: TRY400
            self._end()
            outcome.set_exception(error)
        else:
            self._end()
            outcome.set_result(None)

    def _end(self) -> None:
        self.stopped = True
        try:
            self.let_go()
        except Exception:
            logger.exception("%r: what its run needed could not be let go of", self)
