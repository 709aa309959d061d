"""Foreign names, ids, frames and texts in Redis break no display."""

from datetime import UTC, datetime
from decimal import Decimal

import pandas as pd
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from deployments.commands.dead import in_full
from deployments.show.as_json import entry_object, line
from deployments.show.tables import entry_table, letters_table, levels_table
from tasks import Entry, Reservoir
from tasks.archive.dataset import rows_of
from tasks.group.dead_letters import Letter
from tasks.report.levels import markdown
from tasks.testing import values
from tests.support.streams import push_all

MICROSECONDS = "1700000000000000-0"  # in microseconds, as some clients write ids: a day in the year 55840


def shown(*parts: object, width: int = 120) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(*parts)
    return capture.get()


@pytest.mark.odd_keys
def test_a_stream_whose_name_no_topic_can_have_is_no_topic(client: redis.Redis) -> None:
    push_all(client, "market", [1])
    for name in (b"\xff\xfe", b"two\nlines", b"space ", b"x" * 201, b"sluice:levels"):
        client.xadd(name, {"n": 1})
    assert Reservoir(client).topics() == ["market"]


def test_id_beyond_all_times_is_shown_with_the_last_possible_time(client: redis.Redis) -> None:
    client.xadd("market", {"n": 1}, id=MICROSECONDS)
    reservoir = Reservoir(client)
    levels, [entry] = reservoir.levels(), reservoir.peek("market")
    assert isinstance(entry, Entry)
    last = datetime(9999, 12, 30, 23, 59, 59, tzinfo=UTC)
    assert entry.time == Letter(MICROSECONDS).time == last
    assert rows_of(entry)[0].partition.name == "day=9999-12-30"
    assert "9999-12-30 23:59:59" in markdown(levels, [])
    assert "9999-12-30" in line(entry_object(entry, "market"))
    assert "market" in shown(levels_table(levels), letters_table([Letter(MICROSECONDS)]), entry_table("market", entry))


@pytest.mark.parametrize(
    ("index", "names"),
    [
        (pd.Index(["lo"], name="code"), ["code", "code", "n"]),  # a column has the same name
        (pd.Index(["lo"]), ["index", "code", "n"]),
        (pd.MultiIndex.from_tuples([("lo", 1)], names=["name", None]), ["name", "level_1", "code", "n"]),
        (pd.RangeIndex(1), ["code", "n"]),
    ],
)
def test_index_of_a_frame_is_shown_unless_it_is_a_range(index: pd.Index, names: list[str]) -> None:
    frame = pd.DataFrame({"code": ["a"], "n": [1]}, index=index)
    _, table = entry_table("t", Entry({"frame": frame}, topic="t", id="1-0")).renderables
    assert isinstance(table, Table)
    assert [str(column.header) for column in table.columns] == names


SOME = [
    1,
    -1e300,
    float("nan"),
    True,
    None,
    "text\u4e2d\n",
    b"\xff",
    Decimal("1.10"),
    pd.Timestamp("2026-01-01", tz="UTC"),
    pd.NaT,
    [1],
]


@st.composite
def any_frames(draw: st.DrawFn) -> pd.DataFrame:
    """Generate frames with column names of any kind, repeated ones too, and any kind of index."""
    rows = draw(st.integers(0, 12))
    names = draw(st.lists(st.sampled_from(["a", "b", "index", "level_0", "", 3]), max_size=6))
    frame = pd.concat([pd.Series([draw(st.sampled_from(SOME))] * rows) for _ in names] or [pd.Series()], axis="columns")
    frame.columns = pd.Index(names or ["a"])
    index = draw(st.lists(st.sampled_from(["a", "index", None]), max_size=3))
    if len(index) == 1:
        frame.index = pd.Index(["x"] * len(frame), name=index[0])
    elif index:
        frame.index = pd.MultiIndex.from_arrays([range(len(frame))] * len(index), names=index)
    return frame


@given(values(allow_nan=True), any_frames() | st.none(), st.integers(20, 100))
def test_entry_with_any_content_can_be_shown(value: object, frame: pd.DataFrame | None, width: int) -> None:
    fields = {"value": value} if frame is None else {"value": value, "frame": frame}
    entry = Entry(fields, topic="t", id="1-0")
    shown(entry_table("t", entry, width=width), width=width)
    line(entry_object(entry, "t"))


def test_foreign_text_cannot_control_the_terminal(client: redis.Redis) -> None:
    bad = "a\x1b[2J\x9b31m\x07b"
    push_all(client, "market", [1])
    client.xgroup_create("market", bad, "0")
    letter = Letter("1-0", entry_id=bad, node=bad, exception=bad, traceback=f"first\n  {bad}")
    entry = Entry({bad: bad, "long": bad * 10**6}, topic="market", id="1-0")
    parts = [
        levels_table(Reservoir(client).levels()),
        letters_table([letter]),
        in_full(letter),
        entry_table("market", entry),
    ]
    for part in parts:
        text = shown(part)
        assert "a [2J 31m b" in text
        assert not set(text) & {"\x1b", "\x9b", "\x07"}
    assert "first\n  a" in shown(in_full(letter))
