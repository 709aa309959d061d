"""Reports show the counts of a graph in Markdown and Mermaid that no name can break."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks.pipeline.retrying import Retried
from tasks.report import pipeline as report
from tasks.report.levels import markdown
from tasks.reservoir import history
from tasks.reservoir.levels import GroupLevel, Levels, TopicLevel
from tests.support.streams import push_all, run


def flow_after(client: redis.Redis, build: Any, n: int = 6) -> report.GraphCounts:
    """Return the counts of a pipeline after n entries."""
    push_all(client, "topic", range(n))
    sources: list[Any] = []

    def built(source: Stream) -> Any:
        sources.append(source)
        return build(source)

    run(built, client)
    return report.counts_of(sources[0].latest_run.secured.meters)


def test_figures_count_elements_of_fused_and_plain_graphs_alike(fake_redis: redis.Redis) -> None:
    flow = flow_after(
        fake_redis,
        lambda source: source.map(lambda e: e["n"]).filter(lambda n: n % 2).map(lambda n: 1 / (n - 3)).sink_to_list(),
    )
    figures = dict(zip(flow.names, zip(flow.received, flow.emitted, flow.failed, strict=True), strict=True))
    assert figures == {
        "from_redis": (6, 6, 0),
        "map(<lambda>)": (6, 6, 0),
        "filter(<lambda>)": (6, 3, 0),
        "map(<lambda>)#2": (3, 2, 1),
        "sink(append)": (2, None, 0),
    }


def test_each_arrow_into_a_node_that_others_flow_together_in_has_its_own_count(fake_redis: redis.Redis) -> None:
    def build(source: Stream) -> Any:
        odd, even = source.filter(lambda e: e["n"] % 2), source.filter(lambda e: e["n"] % 3 == 0)
        return [odd, even, odd.union(even).sink_to_list()]

    flow = flow_after(fake_redis, build)
    union = flow.names.index("union")
    assert sorted(count for (_, head), count in flow.arrows.items() if head == union) == [2, 3]
    assert flow.received[union] == 5


@pytest.mark.parametrize("name", ['say "hi"', "a]--x;b", "<b>#1</b>", "`x`", "line\nbreak", "end", "100% {x} (y) \\|"])
def test_no_name_breaks_the_diagram(name: str) -> None:
    flow = report.GraphCounts((name,), (0,), (None,), (0,), (0,), (0.0,), {}, 0.0)
    [line] = [line for line in report.diagram(flow).splitlines() if line.startswith("  n0")]
    label = re.fullmatch(r'  n0\["(.*)"\]', line)
    assert label
    assert re.fullmatch(r"(?:[\w\s%$:.,'*+=/!?@^~-]|#\d+;)*", label[1])
    assert re.sub(r"#(\d+);", lambda m: chr(int(m[1])), label[1]) == name.replace("\n", r"\n")


def test_diagram_has_rates_on_its_arrows_and_failing_or_stalled_nodes_in_red() -> None:
    names = ("a", "b", "c", "d")
    arrows = {(0, 1): 10, (1, 2): 10, (2, 3): 0}
    before = report.GraphCounts(
        names, (0,) * 4, (0,) * 4, (0,) * 4, (0,) * 4, (0.0,) * 4, dict.fromkeys(arrows, 0), 100.0
    )
    after = report.GraphCounts(names, (0,) * 4, (0,) * 4, (0, 1, 0, 0), (0,) * 4, (0.0,) * 4, arrows, 104.0)
    drawn = report.diagram(after, before, stalled=["c"])
    assert '  n1["b, 1 failed"]' in drawn
    assert '  n2["c, stalled"]' in drawn
    assert '  n0 -->|"2.5/s"| n1' in drawn
    assert '  n2 -->|"0/s"| n3' in drawn
    assert "  class n1,n2 bad" in drawn
    assert "class " not in report.diagram(before)
    assert "|" not in report.diagram(before)


def test_node_that_alone_takes_most_of_the_time_is_orange_unless_it_fails() -> None:
    def at(time: float, *seconds: float) -> report.GraphCounts:
        zero = (0,) * len(seconds)
        return report.GraphCounts(("a", "b", "c"), zero, zero, (0, 0, int(time)), zero, seconds, {}, time)

    drawn = report.diagram(at(14.0, 5.0, 12.0, 12.0), at(10.0, 4.0, 9.0, 9.0))
    assert '  n0["a"]' in drawn
    assert '  n1["b, busy 75%"]' in drawn
    assert "  class n1 slow" in drawn
    assert "  class n2 bad" in drawn
    assert "slow" not in report.diagram(at(14.0, 5.0, 12.0, 12.0))
    assert "slow" not in report.diagram(at(10.0, 1.0, 1.0, 1.0), at(10.0, 0.0, 0.0, 0.0))


def tried(node: str, id_: str, since: float, *, most: int | None = 4) -> Retried:
    return Retried(node, "topic", id_, 2, most, "OSError: a|b", since, since + 100.0)


def test_calls_tried_again_are_counted_and_the_longest_waiting_shown() -> None:
    calls = [tried("sink(post)", f"{n}-0", 1000.0 + n) for n in range(12)]
    head, table = report.retried_table(calls[::-1], 1030.0).split("\n\n")
    assert head == "**12 elements wait for another attempt.**"
    _, _, *rows = map(cells, table.splitlines())
    assert [row[1] for row in rows] == [f"{n}-0" for n in range(10)]
    assert rows[0] == ["sink(post)", "0-0", "2 of 4", "30 s", "70 s", r"OSError: a\|b"]
    held = report.retried_table([tried("sink(post)", "1-0", 1.0, most=None)], 0.0)
    assert held.startswith("**1 element waits for another attempt.**")
    assert cells(held.splitlines()[-1])[2] == "2"


def test_node_that_tries_calls_again_is_orange_unless_it_fails() -> None:
    flow = report.GraphCounts(("a", "b"), (1, 1), (1, None), (0, 0), (0, 0), (0.0, 0.0), {(0, 1): 1}, 1.0)
    drawn = report.diagram(flow, retried=[tried("b", "1-0", 1.0)] * 2)
    assert '  n1["b, 2 tried again"]' in drawn
    assert "  class n1 slow" in drawn
    assert "slow" not in report.diagram(flow, retried=[tried("b", "1-0", 1.0)], stalled=["b"])


def test_end_of_a_replay_is_a_time_unless_its_id_is_none() -> None:
    assert report.replay_ends({"market": "1767225600000-3"}) == "market 2026-01-01 00:00:00 UTC"
    assert report.replay_ends({"market": "1767225600000-3", "old": "7-0"}) == "market 2026-01-01 00:00:00 UTC, old 7-0"


def cells(line: str) -> list[str]:
    return [one.strip() for one in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_a_frame_is_shown_by_its_head_with_every_row_as_wide_as_its_header() -> None:
    frame = pd.DataFrame({f"c|{n}": [f"x|{n}\ny <b>"] * 40 for n in range(30)})
    table, size = report.result_table(frame).split("\n\n")
    rows = [cells(line) for line in table.splitlines()]
    assert {len(row) for row in rows} == {14}  # the index, six or seven columns from each end, and dots
    assert len(rows) == 12
    assert rows[0][1] == r"c\|0"
    assert rows[0][-1] == r"c\|29"
    assert rows[2][1] == r"x\|0\\ny \<b\>"
    assert size == "40 rows, 30 columns"


WORD = st.text("ab", min_size=1, max_size=50)


@given(st.dictionaries(WORD, WORD, min_size=1, max_size=12))
def test_a_frame_is_shown_no_wider_than_the_page_and_whole_if_it_fits(values: dict[str, str]) -> None:
    header, _, row = report.result_table(pd.DataFrame([values])).splitlines()[:3]
    columns = list(zip(cells(header), cells(row), strict=True))
    dots = ("...", "...")
    at = columns.index(dots) if dots in columns else len(columns)
    first, last = columns[1:at], columns[at + 1 :]
    assert _width(columns) <= 76 or (len(first) == 1 and not last)
    assert (dots in columns) == (_width([("", "0"), *values.items()]) > 76)
    assert first == list(values.items())[: len(first)]
    assert last == list(values.items())[len(values) - len(last) :]


def _width(columns: list[tuple[str, str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in columns)


@pytest.mark.parametrize("library", [pl.DataFrame, pa.table])
def test_a_frame_of_another_library_is_shown_as_one_of_pandas(library: Any) -> None:
    columns = {"code": ["a", "b"] * 20, "now": [1.5, 2.5] * 20}
    assert report.result_table(library(columns)) == report.result_table(pd.DataFrame(columns))


def test_a_stream_is_not_read_to_be_shown() -> None:
    reader = pa.table({"a": [1]}).to_reader()
    assert report.result_table(reader).startswith("```")
    assert reader.read_all().num_rows == 1


@pytest.mark.parametrize(
    "value",
    [pd.DataFrame(), pd.DataFrame({"a": []}), pd.Series([1.5]), {"a": 1}, 3, "```", None, object(), {"x": "y" * 9999}],
)
def test_any_result_can_be_shown(value: Any) -> None:
    assert len(report.result_table(value)) < 2_000


def test_the_topics_of_the_group_are_shown_and_no_others(fake_redis: redis.Redis) -> None:
    flow_after(fake_redis, lambda source: source.sliding_window(3, return_partial=False).sink_to_list())
    push_all(fake_redis, "topic", range(4))
    level = Levels(fake_redis).of("topic")
    assert level
    fake_redis.xgroup_create("topic", "other", "0")
    *_, row = report.topics_table([level], "group").splitlines()
    assert (cells(row)[:2], cells(row)[3]) == (["topic", "4"], "2")
    assert "no such group" in report.topics_table([level], "dropped")


@pytest.mark.parametrize(
    ("lags", "pending", "expected"),
    [
        ([0, 0], 0, "**Caught up**: nothing is unread or in work."),
        ([0, 0], 3, "**Nothing is unread**; 3 in work or kept."),
        ([1_200, 34], 3, "**Behind by 86 s**: 1,234 unread, 3 in work or kept."),
        ([None, 34], 0, "**Behind by 86 s**: an unknown number unread, 0 in work or kept."),
        ([], 0, "It has not read anything yet."),
    ],
)
def test_a_group_has_caught_up_if_nothing_is_unread_or_in_work(
    lags: list[int | None], pending: int, expected: str
) -> None:
    def level(n: int, lag: int | None) -> TopicLevel:
        behind = 0.0 if lag == 0 else 86.0 if n == 0 else 12.0
        mine = GroupLevel("group", consumers=1, pending=pending * (n == 0), lag=lag, dead=0, behind=behind)
        other = GroupLevel("other", consumers=1, pending=9, lag=9, dead=0, behind=900.0)
        return TopicLevel(f"topic-{n}", 5, "1-0", "2-0", (mine, other))

    assert report.position([level(n, lag) for n, lag in enumerate(lags)], "group") == expected


def test_a_chart_of_lag_is_drawn_to_scale_also_where_nothing_was_sampled() -> None:
    began = datetime(2026, 11, 26, tzinfo=UTC)
    lags = {0: 10, 5: 20, 10: 30, 300: 40, 305: 50}  # by the minute
    samples = [
        history.Sample(began + timedelta(minutes=m, seconds=1), {("t", "g"): lag}, {}, {}) for m, lag in lags.items()
    ]
    text = markdown([], samples)
    assert f"line [10, 20, {'30, ' * 58}40, 50]" in text
    assert 'x-axis "hours up to now" -5.08 --> 0' in text
    assert "minutes" in markdown([], samples[:3])
