"""Loggers whose records are one line each, without control characters and of bounded length."""

import logging
from collections.abc import Callable

from tasks.base.plain_text import one_line, traceback_below

__all__ = ["get_logger", "tidy"]


class _OneLine(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        tidy(record, one_line)
        return True


_FILTER = _OneLine()


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module: what it logs is one line, and a traceback is indented below it.

    A filter of the package's logger would not do: Python asks it only about records that are logged there.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_FILTER)  # adding it again changes nothing
    return logger


def tidy(record: logging.LogRecord, shape: Callable[[str], str]) -> None:
    """Give a record the message that `shape` makes of its own, and a traceback that is indented and bounded."""
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - the arguments do not fit: its handlers report that
        return
    if (shown := shape(message)) != message:
        record.msg, record.args = shown, ()
    if isinstance(record.exc_info, tuple) and record.exc_info[1]:
        record.exc_text = traceback_below(record.exc_info[1])
