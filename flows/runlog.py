"""What `tasks` logs is told in the log of the run, too: Prefect shows there only what its own loggers are given."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import get_run_logger
from prefect.context import FlowRunContext

__all__ = ["tell_what_tasks_log"]


class _ToTheRun(logging.Handler):
    """Hands records on to a run's logger, which knows the run in any thread: a consumer's have no Prefect context."""

    def __init__(self, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(record.levelno, "%s", record.getMessage(), exc_info=record.exc_info)


@contextmanager
def tell_what_tasks_log() -> Iterator[None]:
    """Show in the log of this flow run what the package `tasks` logs meanwhile; do nothing outside a flow run."""
    if FlowRunContext.get() is None:
        yield
        return
    logger, handler = logging.getLogger("tasks"), _ToTheRun(get_run_logger())
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # or the worker's log has every line twice
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
