"""What `tasks` logs is told in the log of the run, too: Prefect shows there only what its own loggers are given."""

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from prefect import get_run_logger
from prefect.context import FlowRunContext

__all__ = ["tell_what_tasks_log", "told_meanwhile"]

_KEPT = 20  # of what waits to be told, the last ones

# What waits to be told with the run's next line; None outside of a run. A run's threads share it.
_waiting: ContextVar[deque[str] | None] = ContextVar("waiting", default=None)


class _ToTheRun(logging.Handler):
    """Hands records on to a run's logger, which knows the run in any thread: a consumer's have no Prefect context.

    What is no warning waits: a run tells one line a minute.
    """

    def __init__(self, log: logging.Logger | logging.LoggerAdapter[Any], waiting: deque[str]) -> None:
        super().__init__(logging.INFO)
        self._log = log
        self._waiting = waiting

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno > logging.INFO:
            self._log.log(record.levelno, "%s", record.getMessage(), exc_info=record.exc_info)
        else:
            self._waiting.append(record.getMessage())


class _TasksLogger:
    """The logger of the package `tasks`, which is as it was before once no run of this process has a handler there."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("tasks")
        self._lock = threading.Lock()
        self._handlers = 0
        self._before = self._logger.level, self._logger.propagate

    def add(self, handler: logging.Handler) -> None:
        with self._lock:
            if not self._handlers:
                self._before = self._logger.level, self._logger.propagate
            self._handlers += 1
            self._logger.addHandler(handler)
            self._logger.setLevel(logging.INFO)
            self._logger.propagate = False  # or the worker's log has every line twice

    def remove(self, handler: logging.Handler) -> None:
        with self._lock:
            self._handlers -= 1
            self._logger.removeHandler(handler)
            if not self._handlers:
                self._logger.setLevel(self._before[0])
                self._logger.propagate = self._before[1]


_tasks = _TasksLogger()


@contextmanager
def tell_what_tasks_log() -> Iterator[None]:
    """Show in the log of this flow run what the package `tasks` logs meanwhile; do nothing outside a flow run."""
    if FlowRunContext.get() is None:
        yield
        return
    waiting: deque[str] = deque(maxlen=_KEPT)
    log = get_run_logger()
    handler = _ToTheRun(log, waiting)
    _tasks.add(handler)
    token = _waiting.set(waiting)
    try:
        yield
    finally:
        if left := told_meanwhile():  # of a run that failed, say, before its next line
            log.info("%s", "; ".join(left))
        _waiting.reset(token)
        _tasks.remove(handler)


def told_meanwhile() -> list[str]:
    """Take what `tasks` has logged in this run since the last call, warnings and worse left out: they are told already."""
    waiting = _waiting.get()
    return [waiting.popleft() for _ in range(len(waiting))] if waiting else []
