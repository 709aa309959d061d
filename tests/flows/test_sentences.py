"""Log records of users' mistakes in Prefect's loggers."""

import logging
import sys

import pytest
from prefect.exceptions import CancelledRun, FailedRun

from flows.runtime.sentences import log_errors_in_one_sentence
from tasks import EncodeError, PipelineError, PumpError, SettingsError, UnavailableError


def filtered(name: str, error: Exception, message: str) -> tuple[bool, logging.LogRecord]:
    """Return whether Prefect's logger passes on its record of an error, and the record that handlers get."""
    log_errors_in_one_sentence()
    logger = logging.getLogger(name)
    try:
        raise error
    except type(error):
        record = logger.makeRecord(name, logging.ERROR, "", 0, message, (), sys.exc_info())
    return bool(logger.filter(record)), record


def logged(name: str, error: Exception) -> logging.LogRecord:
    is_kept, record = filtered(name, error, f"Execution failed: {error!r}")
    assert is_kept
    return record


@pytest.mark.parametrize("name", ["prefect.flow_runs", "prefect.engine"])
@pytest.mark.parametrize("error", [SettingsError("every: no duration"), UnavailableError("Redis: no answer")])
def test_a_mistake_is_logged_as_one_sentence_without_a_traceback(name: str, error: Exception) -> None:
    record = logged(name, error)
    assert record.exc_info is None
    assert record.getMessage() == f"Execution failed: {error}"


@pytest.mark.parametrize(
    ("cause", "is_short"), [(None, True), (EncodeError("field 'n'"), True), (OSError("no network"), False)]
)
def test_only_an_error_that_a_pump_raised_is_logged_with_its_traceback(cause: Exception | None, is_short: bool) -> None:
    error = PumpError("pump 'quotes' failed 10 times in a row")
    error.__cause__ = cause
    assert (logged("prefect.flow_runs", error).exc_info is None) is is_short


def test_an_error_in_a_users_pipeline_keeps_its_traceback() -> None:
    assert logged("prefect.flow_runs", PipelineError("node 'map' raised")).exc_info is not None


@pytest.mark.parametrize("error", [CancelledRun("Stopped in good order."), FailedRun("node 'map' raised")])
def test_the_message_of_a_returned_state_is_not_logged_again_as_an_error(error: Exception) -> None:
    assert not filtered("prefect.flow_runs", error, "Engine execution exited with unexpected exception")[0]
    assert logged("prefect.flow_runs", error).exc_info, "a pump's own error of that kind"
