"""Narrow terminals lose no line and no character: long text is folded, and only the least important columns are left out."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import redis
from rich.console import Console, RenderableType
from rich.table import Table

from deployments.checks.findings import failure
from deployments.commands import doctor, groups, peek, status, topics
from deployments.commands.dead import dead
from deployments.rollout.last_run import Deployed
from deployments.servers.redis_server import RedisServer
from deployments.show.tables import entry_table
from deployments.show.terminal import Terminal
from deployments.show.times import clock
from tasks.reservoir import Reservoir
from tasks.reservoir.entry import Entry
from tests.support.streams import push_all, run

TOPIC = "prices:of:all:exchanges:of:the:world:in:one:topic"
GROUP = "group-with-a-name-that-says-what-it-is-for"
WIDTHS = [40, 60]

narrow = pytest.mark.parametrize("width", WIDTHS)


def printed(width: int, *what: RenderableType) -> str:
    console = Terminal(width=width)
    with console.capture() as capture:
        console.print(*what)
    return capture.get()


def whole(text: str) -> str:
    """Return text without line breaks and spaces, at which it was folded."""
    return "".join(text.split())


def columns_of(table: Table, width: int) -> dict[str, str]:
    """Return what a drawn table shows in each column, without spaces, by its header."""
    drawn = printed(width, table).replace("┃", "│")
    lines = [line.split("│") for line in drawn.splitlines() if "─" not in line and "━" not in line]
    headers = [str(column.header) for column in table.columns]
    assert {len(line) for line in lines} == {len(headers)}
    return {header: whole("".join(line[n] for line in lines)) for n, header in enumerate(headers)}


def expect_whole(table: Table, width: int) -> None:
    """Expect that a table fits, and shows each cell in full."""
    assert max(map(len, printed(width, table).splitlines())) <= width
    shown = columns_of(table, width)
    for column in table.columns:
        assert shown[str(column.header)] == whole(f"{column.header}{''.join(map(str, column.cells))}")


@pytest.fixture
def reservoir(real_redis: redis.Redis, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Reservoir:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    push_all(real_redis, TOPIC, [0] * 3)
    run(lambda source: source.map(lambda entry: 1 / entry["n"]).sink(print), real_redis, TOPIC, group=GROUP)
    push_all(real_redis, TOPIC, [0] * 3)
    push_all(real_redis, "short", [1])
    return Reservoir(real_redis)


@narrow
def test_status_shows_each_topic_group_and_deployment(reservoir: Reservoir, width: int) -> None:
    deployed = tuple(
        Deployed(f"{name}/{name}-with-a-long-name", "every 10 min", "run", "Running", "RUNNING", datetime.now(UTC))
        for name in ("quotes", "movers")
    )
    address = "http://a-server-with-a-long-name.example:4200"
    found = status.Status(
        Path(),
        1,
        status.PrefectStatus(address, deployments=deployed),
        status.RedisStatus("redis://another-server-with-a-long-name.example:6379", topics=tuple(reservoir.levels())),
    )
    drawn = status._drawn(found, width)
    for part in drawn.renderables:  # type: ignore[attr-defined]
        if isinstance(part, Table):
            expect_whole(part, width)
    text = whole(printed(width, drawn))
    assert whole(address) in text
    assert "noneisonline:norunbegins" in text
    assert max(map(len, printed(width, drawn).splitlines())) <= width


@narrow
@pytest.mark.parametrize("show", [topics.list_topics, groups.list_groups, lambda console: dead(console, TOPIC, GROUP)])
def test_lists_fit_and_have_a_line_for_each_row(
    reservoir: Reservoir, width: int, show: Callable[[Console], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[Table] = []
    console = Terminal(width=width)
    print_ = console.print
    monkeypatch.setattr(console, "print", lambda *what, **options: (tables.extend(what), print_(*what, **options)))
    with console.capture():
        show(console)
    [table] = [each for each in tables if isinstance(each, Table)]
    assert table.row_count >= 1
    expect_whole(table, width)


@narrow
def test_peek_shows_each_field_and_row_that_has_room(reservoir: Reservoir, width: int) -> None:
    entry = Entry({"a-field-with-a-long-name": "x" * 100, "n": 1}, topic=TOPIC, id="1796000000000-0")
    title, table = entry_table(TOPIC, entry, width=width).renderables
    assert whole(f"{TOPIC} {clock(entry.time)} ({entry.id})") in whole(printed(width, title))
    assert isinstance(table, Table)
    expect_whole(table, width)
    frame = pd.DataFrame({f"column{n}": range(3) for n in range(9)}, index=["a" * 70, "b", "c"])
    drawn = printed(width, entry_table(TOPIC, Entry({"frame": frame}, topic=TOPIC, id="1-0"), width=width))
    assert max(map(len, drawn.splitlines())) <= width
    assert [line[:1] for line in drawn.splitlines() if line[:1] in "abc"] == ["a", "b", "c"]
    assert "columns" in drawn
    console = Terminal(width=width)
    with console.capture() as capture:
        peek.peek(console, TOPIC, 3)
    assert whole(capture.get()).count(whole(f"{TOPIC}")) == 3


@narrow
def test_doctor_prints_findings_and_remedies_in_full(width: int) -> None:
    finding = failure("a check", f"expected {TOPIC!r}, got another", f"`sluice groups drop {TOPIC} {GROUP}`")
    console = Terminal(width=width)
    with console.capture() as capture:
        console.print(doctor._drawn(finding), soft_wrap=True)
    assert whole(finding.says + "; " + finding.do) in whole(capture.get())


@pytest.mark.odd_keys
@narrow
def test_unreadable_topic_is_named_with_its_whole_reason(reservoir: Reservoir, width: int) -> None:
    reservoir.client.set(f"sluice:index:{TOPIC}", "x", px=60_000)
    [level] = [level for level in reservoir.levels() if level.unreadable]
    console = Terminal(width=width)
    with console.capture() as capture:
        topics.list_topics(console)
    assert whole(level.unreadable) in whole(capture.get())
