"""A streamz source that works in a thread of its own."""

import contextvars
import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future
from typing import Any, Protocol

from streamz.sources import Source

from tasks.base.logs import get_logger
from tasks.errors import SluiceError
from tasks.pipeline import lifetimes

__all__ = ["Run", "ThreadedSource"]

logger = get_logger(__name__)


class Run(Protocol):
    """One run of a source, from a start to a stop, with its state."""

    def run(self) -> Any:
        """Work until stopped; raise the error that ended the run otherwise. The source's thread."""

    def stop(self) -> None:
        """Let `run` return soon. Any thread."""


class ThreadedSource(Source, ABC):
    """A source that works in a thread of its own, so that a pipeline that blocks its loop does not block the source.

    Stopping one source stops no other.

    outcome     done when the run has ended; holds the error that ended it, if there was one
    is_running  whether the source was started and its run has not ended
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
        """Start, or start again after a stop. Raises an error if the address, the server or the graph is unusable."""
        if not self.stopped:
            return
        if self._thread is not None:
            self._thread.join()  # the ending run still holds entries
        run = self._begin()
        self._current, self.outcome = run, Future()
        self.stopped, self.started, self.is_running = False, True, True
        lifetimes.begin(self)
        # Functions of the pipeline see the context variables of the caller, such as Prefect's run.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._work, run, self.outcome), name=repr(self), daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Let the source stop; `join` waits until it has."""
        self.stopped = True
        if self._current is not None:
            self._current.stop()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the source has ended. Raises the error that ended it, or TimeoutError."""
        self.outcome.result(timeout)

    def let_go(self) -> None:
        """Release the graph and the other resources of a run; the source can be started again."""
        self.is_running = False
        lifetimes.end(self)

    @abstractmethod
    def _begin(self) -> Run:
        """Make the run for a start."""

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
            logger.exception("%r: the resources of its run could not be released", self)
