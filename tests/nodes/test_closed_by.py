"""`closed_by` of windows: those that event time closed depend on no clock; those that time closed without an element are marked."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks import Entry
from tasks.nodes import session_window, time_window  # noqa: F401 - register themselves with streamz
from tasks.nodes.window_node import MarkedWindow, Window
from tasks.testing import Bench
from tasks.windows.watermark import Watermark
from tests.support.windows import START, Came, Life, Options, came, lived, lives, model, options

Fresh = Callable[[], redis.Redis]
Place = tuple[int, str]


def marked(source: Any, given: Options) -> Any:
    windows = source.time_window(**given.as_given(), key="key", closed_by=True)
    return windows.agg(first=("value", "first"), sum=("value", "sum"), n=("value", "count"))


def windows_of(elements: list[Came], given: Options, client: redis.Redis, life: Life | None = None) -> list[Any]:
    """Return the windows of a life, or of a replay, in order."""
    return [dict(one) for one in lived(marked, elements, client, life, given=given).entries("results")]  # type: ignore[arg-type]


def by_place(windows: list[Any], closed_by: str) -> dict[Place, Any]:
    found = {(round(one["start"].timestamp() * 1000) - START, one["key"]): one for one in windows}
    return {place: one for place, one in found.items() if one["closed_by"] == closed_by}


def paces(elements: list[Came]) -> st.SearchStrategy[list[Came]]:
    """Return the same elements in the same order, appended at other times."""

    def placed(gaps: list[int]) -> list[Came]:
        at, found = elements[0].at, []
        for gap, one in zip(gaps, elements, strict=True):
            at += gap
            found.append(replace(one, at=at))
        return found

    n = len(elements)
    return st.lists(st.sampled_from([1, 1, 2, 30]), min_size=n, max_size=n).map(placed)


@pytest.mark.timeout(600)  # each example has three pipelines
@given(data=st.data(), given_=options, elements=came(st.integers(-5, 5)))
def test_windows_that_event_time_has_closed_depend_on_no_clock(
    fresh_client: Fresh, data: st.DataObject, given_: Options, elements: list[Came]
) -> None:
    """Whenever entries were appended, these windows are those that elements alone close; only marked ones may differ."""
    options_, clockless = replace(given_, close_after=given_.close_after or 4), replace(given_, close_after=None)
    expected = by_place(windows_of(elements, clockless, fresh_client()), "event_time")
    paced = data.draw(st.just(elements) | paces(elements))
    live = windows_of(paced, options_, fresh_client(), data.draw(lives(len(elements))))
    assert live == windows_of(paced, options_, fresh_client())
    by_events, by_clock = by_place(live, "event_time"), by_place(live, "clock")
    assert len(live) == len(by_events) + len(by_clock)
    assert by_events == {place: expected[place] for place in by_events}
    # The clock may also close a window before its first element comes.
    left = model(paced, options_)[0].keys()
    assert expected.keys() - by_events.keys() - by_clock.keys() <= expected.keys() - left


@given(lateness=st.integers(0, 5), seen=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60)), max_size=12))
def test_watermark_by_events_is_the_watermark_without_a_clock(lateness: int, seen: list[tuple[str, int]]) -> None:
    one, clockless = Watermark(lateness, close_after=3), Watermark(lateness, close_after=None)
    for n, (topic, time) in enumerate(seen):
        one.see(topic, time, 2 * n)
        one.move(2 * n + 1)
        clockless.see(topic, time, 2 * n)
        restored = Watermark(lateness, close_after=3)
        restored.restore(one.stored())
        assert one.by_events == restored.by_events == clockless.value <= one.value


# --- examples ---


def entry(topic: str, ms: int, *, came_at: int | None = None) -> Entry:
    return Entry({"n": 1}, topic=topic, id=f"{START + (ms if came_at is None else came_at)}-0", time_ms=START + ms)


def counted(source: Any, **given: Any) -> Any:
    return source.time_window("1s", close_after="2s", **({"closed_by": True} | given)).agg(n=("n", "count"))


def test_last_window_of_a_day_is_marked_as_closed_by_the_clock(client: redis.Redis) -> None:
    with Bench(counted, client=client) as bench:
        bench.push(entry("topic", 0), entry("topic", 1000))
        bench.drain()
        assert [one["closed_by"] for one in bench.results] == ["event_time", "clock"]


def test_window_that_did_not_wait_for_an_idle_topic_is_marked(client: redis.Redis) -> None:
    """Elements have closed it, but the other topic might have had some, too."""
    with Bench(counted, topics=["left", "right"], client=client) as bench:
        bench.push(entry("left", 0), entry("right", 100))
        bench.push(*(entry("left", ms) for ms in range(500, 4000, 500)), entry("right", 4000), entry("left", 5000))
        while bench.step():
            pass
        assert [one["closed_by"] for one in bench.results] == ["clock", "clock", "clock", "event_time"]
        assert [one["n"] for one in bench.results] == [3, 2, 2, 2]


def test_mark_of_an_update_is_that_of_its_time(client: redis.Redis) -> None:
    with Bench(counted, client=client, late="update", lateness="1min") as bench:
        bench.push(entry("topic", 0))
        bench.advance("4s")
        bench.push(entry("topic", 500, came_at=10_000), entry("topic", 3000, came_at=10_001))
        bench.push(entry("topic", 600, came_at=10_002))
        bench.drain()
        of_first = [one for one in bench.results if one["start"].timestamp() * 1000 == START]
        assert [(one["revision"], one["closed_by"]) for one in of_first] == [
            (1, "clock"), (2, "clock"), (3, "event_time"),
        ]  # fmt: skip


def test_frames_have_the_mark_as_a_column_after_the_end(client: redis.Redis) -> None:
    def framed(source: Any) -> Any:
        frames = source.map(lambda one: pd.DataFrame({"n": [1, 2]}, index=pd.Index(["a", "b"], name="key")))
        return frames.time_window("1s", key="key", close_after="2s", closed_by=True).agg(n=("n", "sum"))

    with Bench(framed, client=client) as bench:
        bench.push(entry("topic", 0), entry("topic", 1000))
        bench.drain()
        assert [list(one.columns) for one in bench.results] == [["start", "end", "closed_by", "n"]] * 2
        assert [list(one["closed_by"]) for one in bench.results] == [["event_time"] * 2, ["clock"] * 2]


@pytest.mark.parametrize("node", ["time_window", "session_window"])
def test_windows_of_elements_have_the_mark_as_their_last_field(client: redis.Redis, node: str) -> None:
    def windows(source: Stream) -> Any:
        return getattr(source, node)("1s", close_after="2s", closed_by=True)

    with Bench(windows, client=client) as bench:
        bench.push(entry("topic", 0), entry("topic", 1000))
        bench.drain()
        assert [type(one) for one in bench.results] == [MarkedWindow] * 2
        assert [one[-1] for one in bench.results] == ["event_time", "clock"]


@pytest.mark.parametrize("node", ["time_window", "session_window"])
def test_without_the_option_results_have_no_other_shape(client: redis.Redis, node: str) -> None:
    def both(source: Stream) -> Any:
        plain = getattr(source, node)("1s", stream_name="plain")
        return plain.union(getattr(source, node)("1s", stream_name="aggregated").agg(n=("n", "count")))

    with Bench(both, client=client) as bench:
        bench.push(entry("topic", 0))
        bench.drain()
        found, row = sorted(bench.results, key=lambda one: isinstance(one, dict))
        assert (type(found), len(found), list(row)) == (Window, 4, ["start", "end", "n"])
