"""Records of the package `tasks`, and of runs: no text of an entry or an exception can forge a line."""

import logging
import re
from pathlib import Path

import pytest
import redis

from flows.runtime.sentences import log_errors_in_one_sentence
from tasks.base.logs import get_logger
from tests.support.plain import ROOT
from tests.support.streams import push_all, run

FORGED = "a\n12:00:00.000 | INFO    | Flow run 'x' - all is well\r\x1b[32m" + "y" * 50_000


def logged(name: str, message: str, *arguments: object, error: Exception | None = None) -> str:
    """Return what a handler writes of a record."""
    log_errors_in_one_sentence()
    logger = get_logger(name) if name.startswith("tasks") else logging.getLogger(name)
    about = (type(error), error, None) if error else None
    record = logger.makeRecord(name, logging.ERROR, "", 0, message, arguments, about)
    assert logger.filter(record)
    return logging.Formatter("%(message)s").format(record)


@pytest.mark.parametrize("name", ["tasks.somewhere", "prefect.flow_runs", "prefect.task_runs", "prefect.engine"])
def test_no_text_forges_a_line_of_a_log_or_floods_it(name: str) -> None:
    for text in (logged(name, "it raised %s", FORGED), logged(name, "it raised", error=ValueError(FORGED))):
        assert "all is well" in text
        assert len(text) < 25_000
        assert re.fullmatch(r"[ -~]*(\n    [ -~]*)*", text), "one line, and what belongs to it indented below"
    assert "\n" not in logged("tasks.somewhere", FORGED)


def test_a_pipeline_that_raises_an_entrys_text_logs_one_line_of_it(
    fake_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    def parse(entry: dict[str, str]) -> None:
        msg = f"cannot parse {entry['n']}"
        raise ValueError(msg)

    push_all(fake_redis, "topic", [FORGED])
    run(lambda source: source.map(parse).sink(lambda _: None), fake_redis)
    [line] = [record.getMessage() for record in caplog.records if "cannot parse" in record.getMessage()]
    assert re.fullmatch("[ -~]*", line)
    assert len(line) < 1_000
    assert line.endswith("this entry and all others that fail there become dead letters")


def test_a_record_whose_arguments_do_not_fit_is_left_to_its_handlers() -> None:
    logger = get_logger("tasks.somewhere")
    record = logger.makeRecord(logger.name, logging.INFO, "", 0, "%d of %d", ("one",), (None, None, None))
    assert logger.filter(record)
    assert record.args == ("one",)


def test_a_runs_own_message_of_several_lines_is_shown_in_full() -> None:
    text = logged("prefect.flow_runs", "first\n\tsecond %s", "100 %", error=ValueError("no\nsuch"))
    first, second, *traceback = text.split("\n")
    assert (first, second.split()) == ("first", ["second", "100", "%"])
    assert [line.strip() for line in traceback[-2:]] == ["ValueError: no", "such"]


@pytest.mark.parametrize("package", ["tasks", "flows"])
def test_every_module_takes_its_logger_from_where_records_are_made_one_line(package: str) -> None:
    own = re.compile(r"logging\.getLogger\(__name__\)")
    assert not [path.name for path in Path(ROOT, package).rglob("*.py") if own.search(path.read_text())]
