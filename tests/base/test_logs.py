"""Log records of `tasks` and of runs: text from entries and exceptions cannot forge lines."""

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
    """Return the text that a handler writes for a record."""
    log_errors_in_one_sentence()
    logger = get_logger(name) if name.startswith("tasks") else logging.getLogger(name)
    about = (type(error), error, None) if error else None
    record = logger.makeRecord(name, logging.ERROR, "", 0, message, arguments, about)
    assert logger.filter(record)
    return logging.Formatter("%(message)s").format(record)


@pytest.mark.parametrize("name", ["tasks.somewhere", "prefect.flow_runs", "prefect.task_runs", "prefect.engine"])
def test_logged_text_cannot_forge_lines_or_flood_the_log(name: str) -> None:
    for text in (logged(name, "it raised %s", FORGED), logged(name, "it raised", error=ValueError(FORGED))):
        assert "all is well" in text
        assert len(text) < 25_000
        assert re.fullmatch(r"[ -~]*(\n    [ -~]*)*", text), "one line, and what belongs to it indented below"
    assert "\n" not in logged("tasks.somewhere", FORGED)


def test_entry_text_in_an_exception_is_logged_on_one_line(
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


def test_record_with_wrong_arguments_stays_unchanged() -> None:
    logger = get_logger("tasks.somewhere")
    record = logger.makeRecord(logger.name, logging.INFO, "", 0, "%d of %d", ("one",), (None, None, None))
    assert logger.filter(record)
    assert record.args == ("one",)


def test_multi_line_message_of_a_run_is_logged_in_full() -> None:
    text = logged("prefect.flow_runs", "first\n\tsecond %s", "100 %", error=ValueError("no\nsuch"))
    first, second, *traceback = text.split("\n")
    assert (first, second.split()) == ("first", ["second", "100", "%"])
    assert [line.strip() for line in traceback[-2:]] == ["ValueError: no", "such"]


@pytest.mark.parametrize("package", ["tasks", "flows"])
def test_every_module_uses_the_one_line_logger(package: str) -> None:
    own = re.compile(r"logging\.getLogger\(__name__\)")
    assert not [path.name for path in Path(ROOT, package).rglob("*.py") if own.search(path.read_text())]
