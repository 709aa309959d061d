"""Copies the log of `tasks` into the log of the run, where Prefect shows only records of its own loggers."""

import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from prefect import get_run_logger
from prefect.context import FlowRunContext

__all__ = ["copy_tasks_log", "take_messages"]

_KEPT = 20  # latest messages that wait for the run's next line

# Messages for the run's next line; None outside a run. The threads of a run share it.
_waiting: ContextVar[deque[str] | None] = ContextVar("waiting", default=None)


class _ToTheRun(logging.Handler):
    """Passes records to a run's logger, which knows its run in any thread; a consumer's threads have no Prefect context.

    Records below WARNING wait for the run's next line, at most one a minute.
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
    """The logger of the package `tasks`; restored once no run of this process has a handler there."""

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
            self._logger.propagate = False  # otherwise the worker's log has every line twice

    def remove(self, handler: logging.Handler) -> None:
        with self._lock:
            self._handlers -= 1
            self._logger.removeHandler(handler)
            if not self._handlers:
                self._logger.setLevel(self._before[0])
                self._logger.propagate = self._before[1]


_tasks = _TasksLogger()


@contextmanager
def copy_tasks_log() -> Iterator[None]:
    """Copy what the package `tasks` logs into the log of this flow run; do nothing outside a flow run."""
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
        if left := take_messages():  # for example of a run that failed before its next line
            log.info("%s", "; ".join(left))
        _waiting.reset(token)
        _tasks.remove(handler)


def take_messages() -> list[str]:
    """Return messages below WARNING that `tasks` has logged in this run since the last call."""
    waiting = _waiting.get()
    return [waiting.popleft() for _ in range(len(waiting))] if waiting else []
