"""Keeps the logs of runs readable.

A user's mistake is one sentence instead of the tracebacks that Prefect logs. No text can forge a line: all lines of a record but
the first are indented, and control characters are escaped.
"""

import logging

import redis
from prefect.exceptions import CancelledRun, FailedRun

from tasks.base.logs import tidy
from tasks.base.plain_text import below
from tasks.errors import EncodeError, PumpError, SettingsError, SluiceError, UnavailableError

__all__ = ["log_errors_in_one_sentence"]

# Errors whose message is complete; errors that a pipeline or a pump raised keep their tracebacks.
_TOLD = (EncodeError, SettingsError, UnavailableError)
# Prefect 3.9.1 logs the error that ended a run, with its traceback, for the task, the flow and the engine.
_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


def _says_it_all(error: BaseException | None) -> bool:
    if isinstance(error, PumpError):  # about the returned value or a refusal of Redis, unless the pump itself raised
        return error.__cause__ is None or isinstance(error.__cause__, SluiceError | redis.RedisError)
    return isinstance(error, _TOLD)


# Prefect 3.9.1 fetches the result of a flow that has returned a Cancelled or Failed state. It logs the resulting error with a
# traceback and these words, for the run and the engine, after it has logged the state.
_SAID_BY_THE_STATE = (CancelledRun, FailedRun)
_WORDS = "exited with unexpected exception"


class _OneSentence(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, _SAID_BY_THE_STATE) and record.getMessage().endswith(_WORDS):
            return False
        if _says_it_all(error):
            record.msg, record.args = f"{record.getMessage().partition(': ')[0]}: {error}", ()
            record.exc_info = record.exc_text = None
        tidy(record, below)
        return True


_FILTER = _OneSentence()


def log_errors_in_one_sentence() -> None:
    """Log users' mistakes without tracebacks in this process's run logs, and indent or escape text that could forge a line."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)  # adding it again changes nothing
