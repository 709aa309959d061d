"""Loggers whose records are single lines without control characters, bounded in length."""

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
    """Return a module's logger, which writes each message on one line and indents tracebacks below it.

    Each module needs its own filter: Python applies the filter of the package's logger only to records logged there.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_FILTER)  # has no effect if the filter is there already
    return logger


def tidy(record: logging.LogRecord, shape: Callable[[str], str]) -> None:
    """Replace a record's message by `shape(message)`, and indent and bound its traceback."""
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - the arguments do not fit the message: the record's handlers report that
        return
    if (shown := shape(message)) != message:
        record.msg, record.args = shown, ()
    if isinstance(record.exc_info, tuple) and record.exc_info[1]:
        record.exc_text = traceback_below(record.exc_info[1])
