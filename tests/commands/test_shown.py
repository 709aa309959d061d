"""Entries, topics and dead letters as tables that fit the terminal, and as JSON."""

import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import redis
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from deployments.commands.dead import in_full
from deployments.show.as_json import entry_object, line
from deployments.show.tables import entry_table, letters_table, levels_table
from tasks.group.dead_letters import DeadLetters
from tasks.reservoir import Reservoir
from tasks.reservoir.entry import Entry
from tasks.reservoir.retrying import RetryingNotes
from tasks.testing import Bench
from tests.support.streams import push_all, run


def reciprocal(entry: Entry) -> float:
    return 1 / entry["n"]


def test_letters_of_a_deleted_group_are_shown_newest_first(client: redis.Redis) -> None:
    push_all(client, "topic", [0] * 250)
    run(lambda source: source.map(reciprocal).sink(lambda _: None), client)
    client.xgroup_destroy("topic", "group")
    letters = list(DeadLetters(client, "topic", "group").newest(240))  # more than one request returns
    ids = [id_.decode() for id_, _ in client.xrevrange("topic:dead:group")]
    assert [each.id for each in letters] == ids[:240]
    assert all("ZeroDivisionError" in each.traceback for each in letters)


def test_every_value_of_an_entry_has_one_form_in_json() -> None:
    frame = pd.DataFrame({"code": ["a", "b"], "now": [1.5, float("nan")]})
    twice = pd.DataFrame([[1, 2, 3]], columns=["x", "x", "x.1"], index=pd.Index(["i"], name="key"))
    fields = {
        "frame": frame,
        "twice": twice,
        "raw": b"hi",
        "at": pd.Timestamp("2026-01-01", tz="UTC"),
        "took": pd.Timedelta("1500ms"),
        "times": np.array(["2026-01-01", "NaT"], dtype="M8[ns]"),
        "deep": [{"a": float("inf")}],
        "one": np.int64(3),
        "exact": Decimal("1.10"),
    }
    parsed = json.loads(line(entry_object(Entry(fields, topic="t", id="1000-0"), "t")))
    assert parsed["time"] == "1970-01-01T00:00:01+00:00"
    assert parsed["fields"] == {
        "frame": [{"code": "a", "now": 1.5}, {"code": "b", "now": None}],
        "twice": [{"key": "i", "x": 1, "x.1": 2, "x.1.1": 3}],
        "raw": "aGk=",
        "at": "2026-01-01T00:00:00+00:00",
        "took": 1.5,
        "times": ["2026-01-01T00:00:00", None],
        "deep": [{"a": None}],
        "one": 3,
        "exact": "1.10",
    }


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (pd.DataFrame({"code": [], "now": []}), "0 rows, 2 columns"),
        (pd.DataFrame(), "0 rows, 0 columns"),
        (pd.DataFrame(index=range(3)), "3 rows, 0 columns"),
    ],
)
def test_frame_without_values_is_shown_by_its_numbers_of_rows_and_columns(frame: pd.DataFrame, says: str) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(entry_table("topic", Entry({"frame": frame}, topic="topic", id="1-0")))
    lines = capture.get().splitlines()
    assert lines[-1] == says
    assert all(lines)
    assert ("code" in capture.get()) == ("code" in frame)


@pytest.mark.parametrize("width", [40, 80, 160])
def test_narrow_tables_leave_out_the_least_important_columns(width: int, fake_redis: redis.Redis) -> None:
    push_all(fake_redis, "market", [0] * 3)
    run(lambda source: source.map(reciprocal).sink(lambda _: None), fake_redis, "market", group="movers")
    levels = levels_table(Reservoir(fake_redis).levels(), width=width)
    letters = letters_table(DeadLetters(fake_redis, "market", "movers").newest(3), width=width)
    console = Console(width=width)
    shown = []
    for table in (levels, letters):
        with console.capture() as capture:
            console.print(table)
        assert max(map(cell_len, capture.get().splitlines())) <= width
        shown.append([str(column.header) for column in table.columns])
    assert {"topic", "group", "lag", "dead"} <= set(shown[0])
    assert {"letter", "node", "exception"} <= set(shown[1])
    assert ("consumers" in shown[0], "deliveries" in shown[1]) == (width == 160, width == 160)


def test_calls_tried_again_have_a_column_only_where_there_are_some(client: redis.Redis) -> None:
    push_all(client, "topic", [1])
    run(lambda source: source.sink(lambda _: None), client)

    def shown() -> list[str]:
        table = levels_table(Reservoir(client).levels())
        return [str(cell) for column in table.columns if column.header == "retrying" for cell in column.cells]

    assert shown() == []
    notes = RetryingNotes(client, "group", "one")
    notes.update({"topic": 3})
    assert shown() == ["3"]
    notes.update({})
    assert shown() == []


def test_attempts_of_a_letter_are_shown(client: redis.Redis) -> None:
    push_all(client, "topic", [0, "x"])
    build = lambda source: source.map(reciprocal, retry="1ms, 1ms", retry_on=ZeroDivisionError)
    with Bench(build, client=client) as bench:
        bench.drain()
        bench.stop()
    letters = list(DeadLetters(client, "topic", "group").newest(2))
    [attempts] = [column for column in letters_table(letters).columns if column.header == "attempts"]
    assert list(map(str, attempts.cells)) == ["1", "3"]
    assert "attempts 3, deliveries 1" in str(in_full(letters[1]))


def test_a_wide_frame_shows_its_first_and_last_columns() -> None:
    frame = pd.DataFrame({f"column_{n}": [n] * 20 for n in range(30)})
    shown = entry_table("t", Entry({"frame": frame}, topic="t", id="1-0"), width=60)
    _, table, left_out = shown.renderables
    assert isinstance(table, Table)
    names = [str(column.header) for column in table.columns]
    assert names == ["column_0", "column_1", "column_2", "column_28", "column_29"]
    assert table.row_count == 10
    assert str(left_out) == "of 20 rows and 30 columns"


def test_foreign_text_is_shown_literally_and_controls_no_terminal() -> None:
    bad = "[/red] \x1b[2J [bold]"
    console = Console(width=100, force_terminal=False)
    for value in (bad, pd.DataFrame({bad: [bad]}), pd.DataFrame({"n": [1]})):
        with console.capture() as capture:
            console.print(entry_table("t", Entry({bad: 1, "value": value}, topic="t", id="1-0"), width=100))
        assert "[/red]  [2J [bold]" in capture.get()
        assert "\x1b" not in capture.get()


@pytest.mark.parametrize("frame", [pd.DataFrame(), pd.DataFrame({"a": []}), pd.DataFrame(index=[1, 2])])
def test_an_empty_frame_can_be_shown(frame: pd.DataFrame) -> None:
    entry_table("t", Entry({"frame": frame}, topic="t", id="1-0"))
