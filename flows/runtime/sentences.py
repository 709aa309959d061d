"""Keeps the logs of runs readable.

A user's mistake is one sentence, not the tracebacks that Prefect logs for it. No text can forge a line: lines of a record
after its first are indented, and control characters are written out.
"""

import logging

import redis
from prefect.exceptions import CancelledRun, FailedRun

from tasks.base.logs import tidy
from tasks.base.plain_text import below
from tasks.errors import EncodeError, PumpError, SettingsError, SluiceError, UnavailableError

__all__ = ["say_errors_in_one_sentence"]

# What these say is all there is to know; a pipeline's or a pump's own errors keep their tracebacks.
_TOLD = (EncodeError, SettingsError, UnavailableError)
# Prefect 3.9.1 logs what ended a run, with the traceback, as the task's, as the flow's and as the engine's.
_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


def _says_it_all(error: BaseException | None) -> bool:
    if isinstance(error, PumpError):  # of what the pump returned or Redis refused, unless the pump itself raised
        return error.__cause__ is None or isinstance(error.__cause__, SluiceError | redis.RedisError)
    return isinstance(error, _TOLD)


# A flow that returned a state, Cancelled or Failed, is asked for its result behind that. What comes of it Prefect 3.9.1
# logs with a traceback and these words, of the run and of the engine, after it has logged the state.
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


def say_errors_in_one_sentence() -> None:
    """Leave the tracebacks of users' mistakes out of this process's run logs, and let no text in them forge a line."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)  # adding it again changes nothing
