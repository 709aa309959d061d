"""`time_window`: equal to a plain model, and in a replay equal to the live run, also after crashes and stops."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks import Entry, Reservoir, SettingsError
from tasks.nodes import time_window as windows_of_time  # noqa: F401 - registers itself with streamz
from tasks.testing import Bench
from tests.support.streams import pending
from tests.support.waiting import wait_until
from tests.support.windows import MINUTE, START, Came, Life, Options, at, came, lived, lives, model, options

Fresh = Callable[[], redis.Redis]
AGGREGATIONS = ["first", "last", "max", "min", "sum", "mean", "count"]
HALF_MISSING = st.none() | st.sampled_from([1.5, -2.0, 3.0, math.nan])


def aggregated(source: Stream, given: Options, **more: Any) -> Stream:
    windows: Any = source.time_window(**given.as_given(), key="key", **more)
    return windows.agg(**{kind: ("value", kind) for kind in AGGREGATIONS})


def by_pandas(elements: list[Came], given: Options) -> list[dict[str, Any]]:
    """Return the same aggregations by pandas, of all elements of a window at once."""
    windows, _ = model(elements, given)
    found = []
    for (start, key), members in windows.items():
        ordered = sorted(members, key=lambda one: one.time)
        values = (
            pd.Series([one.value for one in ordered], dtype="float64").groupby([0] * len(ordered)).agg(AGGREGATIONS)
        )
        found.append({"key": key, "start": start, "end": start + given.size} | values.iloc[0].to_dict())
    return found


def results(bench: Bench) -> list[dict[str, Any]]:
    """Return the results in the topic, with times in ms after START and NaN for what is missing."""
    return [plain(dict(entry)) for entry in bench.entries("results")]  # type: ignore[arg-type]


def rows(bench: Bench) -> list[str]:
    """Return the results in the topic in order, with their event times, as text."""
    return [f"{plain(dict(entry))} at {entry.time_ms}" for entry in bench.entries("results")]  # type: ignore[arg-type]


def dead(bench: Bench) -> list[tuple[str, str]]:
    """Return topic and id of the entries that became dead letters."""
    return [(letter.entry.topic, letter.entry.id) for letter in bench.dead]  # type: ignore[attr-defined]


def plain(row: dict[str, Any]) -> dict[str, Any]:
    times = {name: round(row[name].timestamp() * 1000) - START for name in ("start", "end")}
    return {name: math.nan if value is None else value for name, value in row.items()} | times


def in_order(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(
        repr({name: float(value) if name in AGGREGATIONS else value for name, value in row.items()}) for row in rows
    )


def equal_in_life_and_replay(
    fresh: Fresh, build: Callable[..., Any], elements: list[Came], life: Life, given: Options
) -> list[dict[str, Any]]:
    """Return the results of a life, which are those of a replay, as are the dead letters: the late ones of the model."""
    live = lived(build, elements, fresh(), life, given=given)
    found, in_topic, late = results(live), rows(live), dead(live)
    replay = lived(build, elements, fresh(), given=given)
    assert (in_topic, late) == (rows(replay), dead(replay))
    expected = [] if given.late == "drop" else model(elements, given)[1]
    assert [(topic, int(id_.partition("-")[0])) for topic, id_ in late] == [
        (one.topic, START + one.at) for one in expected
    ]
    return found


@given(data=st.data(), given_=options, elements=came(HALF_MISSING), late=st.sampled_from(["drop", "dead_letter"]))
def test_windows_equal_those_of_a_model_in_any_life_and_in_a_replay(
    fresh_client: Fresh, data: st.DataObject, given_: Options, elements: list[Came], late: str
) -> None:
    options_ = replace(given_, late=late)
    found = equal_in_life_and_replay(fresh_client, aggregated, elements, data.draw(lives(len(elements))), options_)
    if given_.close_after is not None:  # or the last windows stay open
        assert in_order(found) == in_order(by_pandas(elements, options_))


@given(data=st.data(), given_=options, elements=came(HALF_MISSING))
def test_last_update_of_each_window_has_all_elements_within_the_lateness(
    fresh_client: Fresh, data: st.DataObject, given_: Options, elements: list[Came]
) -> None:
    options_ = replace(given_, late="update")
    found = equal_in_life_and_replay(fresh_client, aggregated, elements, data.draw(lives(len(elements))), options_)
    revisions: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for one in found:
        revisions.setdefault((one["start"], one["key"]), []).append(one)
    for several in revisions.values():
        assert [one.pop("revision") for one in several] == [*range(1, len(several) + 1)]
    if given_.close_after is not None:
        assert in_order([several[-1] for several in revisions.values()]) == in_order(by_pandas(elements, options_))


@given(data=st.data(), given_=options, elements=came(st.integers(-5, 5)))
def test_windows_of_elements_have_the_elements_of_the_model_by_time(
    fresh_client: Fresh, data: st.DataObject, given_: Options, elements: list[Came]
) -> None:
    def collected(source: Stream, given: Options) -> Any:
        windows: Any = source.time_window(**given.as_given(), key="key")
        return windows.map(
            lambda window: {
                "key": window.key,
                "start": window.start,
                "end": window.end,
                "values": [one["value"] for one in window.elements],
            }
        )

    found = equal_in_life_and_replay(fresh_client, collected, elements, data.draw(lives(len(elements))), given_)
    windows, _ = model(elements, given_)
    expected = {
        (start, key): [one.value for one in sorted(members, key=lambda one: one.time)]
        for (start, key), members in windows.items()
    }
    if given_.close_after is not None:
        assert {(one["start"], one["key"]): one["values"] for one in found} == expected


def framed(source: Stream, given: Options) -> Any:
    """Return windows of frames of one row for each element, with the results as entries of a row each."""

    def as_frame(entry: Any) -> pd.DataFrame:
        times = pd.to_datetime([entry.time_ms + shift for shift in (0, 0, -3)], unit="ms", utc=True)
        return pd.DataFrame(
            {"time": times, "key": [entry["key"], "c", entry["key"]], "value": [entry["value"], 1.0, 2.0]}
        ).astype({"value": "float64"})

    windows: Any = source.map(as_frame).time_window(**given.as_given(), key="key", by="time")
    aggregated = windows.agg(**{kind: ("value", kind) for kind in AGGREGATIONS})
    return aggregated.map(lambda frame: frame.reset_index().to_dict("records")).flatten()


@given(data=st.data(), given_=options, elements=came(HALF_MISSING))
def test_rows_of_frames_are_aggregated_like_single_elements(
    fresh_client: Fresh, data: st.DataObject, given_: Options, elements: list[Came]
) -> None:
    def single(source: Stream, given: Options) -> Any:
        def rows_of(entry: Any) -> list[dict[str, Any]]:
            keys, values, shifts = [entry["key"], "c", entry["key"]], [entry["value"], 1.0, 2.0], (0, 0, -3)
            return [
                {"key": key, "value": value, "time": entry.time_ms + shift}
                for key, value, shift in zip(keys, values, shifts, strict=True)
            ]

        windows: Any = source.map(rows_of).flatten().time_window(**given.as_given(), key="key", by="time")
        return windows.agg(**{kind: ("value", kind) for kind in AGGREGATIONS})

    options_ = replace(given_, lateness=given_.lateness + 3)  # so that no row closes a window before the next row
    live = lived(framed, elements, fresh_client(), data.draw(lives(len(elements))), given=options_)
    found = results(live)
    assert in_order(found) == in_order(results(lived(single, elements, fresh_client(), given=options_)))


def spread(source: Stream, given: Options) -> Any:
    """Return windows of frames with rows of different ages, of which the older ones come late."""

    def as_frame(entry: Any) -> pd.DataFrame:
        times = [entry.time_ms - age for age in (0, 3, 12)]
        return pd.DataFrame({"time": times, "key": entry["key"], "value": [1.0, 10.0, 100.0]}, index=[*"abc"])

    windows: Any = source.map(as_frame).time_window(**given.as_given(), key="key", by="time")
    aggregated = windows.agg(rows=("value", "count"), **{kind: ("value", kind) for kind in AGGREGATIONS})
    return aggregated.map(lambda frame: frame.reset_index().to_dict("records")).flatten()


@pytest.mark.timeout(300)  # each example has three pipelines
@given(data=st.data(), given_=options, elements=came(st.none()))
def test_late_rows_of_a_frame_are_a_dead_letter_and_the_others_count(
    fresh_client: Fresh, data: st.DataObject, given_: Options, elements: list[Came]
) -> None:
    options_ = replace(given_, every=given_.size, close_after=given_.close_after or 25, late="dead_letter")
    found = []
    for life in (data.draw(lives(len(elements))), None):
        bench = lived(spread, elements, fresh_client(), life, given=options_)
        letters = [(rows_of(letter.entry), letter.node) for letter in bench.dead]
        assert sum(len(rows) for rows, _ in letters) + sum(one["rows"] for one in results(bench)) == 3 * len(elements)
        found.append((rows(bench), letters))
    assert found[0] == found[1]
    assert found[0][0] == rows(lived(spread, elements, fresh_client(), given=replace(options_, late="drop")))


def rows_of(entry: Any) -> list[str]:
    return [*entry["rows"].index] if "rows" in entry else ["a", "b", "c"]


# --- examples ---


def bench_of(client: redis.Redis, **given: Any) -> Bench:
    def counted(source: Stream) -> Any:
        windows: Any = source.time_window(**({"size": "1min"} | given))
        return windows.agg(n=("n", "count"))

    return Bench(counted, client=client)


def test_last_window_closes_without_a_next_element(client: redis.Redis) -> None:
    with bench_of(client, lateness="5s", close_after="10s") as bench:
        bench.push(at(0), at(59))
        bench.advance("15s")
        assert bench.results == []
        bench.advance("1s")
        assert [one["n"] for one in bench.results] == [2]
        assert (bench.pending, bench.dead) == ([], [])


def test_window_stays_open_without_a_next_element_if_time_closes_none(client: redis.Redis) -> None:
    with bench_of(client, close_after=None) as bench:
        bench.push(at(0), at(59))
        bench.drain()
        assert bench.results == []
        bench.push(at(60))
        bench.drain()
        assert [one["n"] for one in bench.results] == [2]


def test_window_of_an_earlier_run_closes_by_the_clock_of_redis(real_redis: redis.Redis) -> None:
    """All entries of the window are acknowledged, so the next run gets none: only the stored state shows that the window is open."""
    results: list[Any] = []

    def started() -> Any:
        source = Stream.from_redis("topic", group="group", client=real_redis, start=False)
        windows: Any = source.time_window("1s", close_after="2s")
        windows.agg(n=("n", "sum")).sink(results.append)
        source.start()
        return source

    first = started()
    Reservoir(real_redis).push("topic", {"n": 1})
    wait_until(
        lambda: [one["lag"] for one in real_redis.xinfo_groups("topic")] == [0] and not pending(real_redis),
        "a stored window",
    )
    first.stop()
    first.join(20)
    second = started()
    wait_until(lambda: results, "the window, though nothing comes")
    second.stop()
    second.join(20)
    assert [one["n"] for one in results] == [1]


def test_started_source_closes_a_window_by_the_clock_of_redis(real_redis: redis.Redis) -> None:
    results: list[Any] = []
    source = Stream.from_redis("topic", group="group", client=real_redis, start=False)
    windows: Any = source.filter(lambda entry: entry["n"] > 0).time_window("50ms", close_after="100ms")
    windows.agg(n=("n", "sum")).sink(results.append)
    source.start()
    reservoir = Reservoir(real_redis)
    reservoir.push("topic", {"n": 1})
    wait_until(lambda: results, "the first window, though nothing comes")
    reservoir.push("topic", {"n": 2})
    # Entries that are filtered out keep the topic from being idle; the window closes all the same.
    wait_until(lambda: reservoir.push("topic", {"n": 0}) and len(results) > 1, "the second window")
    source.stop()
    assert [one["n"] for one in results] == [1, 2]


def test_time_far_in_the_future_fails_and_closes_nothing(client: redis.Redis) -> None:
    with bench_of(client) as bench:
        bench.push(at(0), at(3600, came_at=1), at(2))
        bench.advance("1s")
        assert [letter.entry for letter in bench.dead] == [at(3600, came_at=1)]
        assert bench.results == []
        bench.drain()
        assert [one["n"] for one in bench.results] == [2]


def test_lateness_need_not_be_a_multiple_of_anything(client: redis.Redis) -> None:
    with bench_of(client, lateness="7.013s", late="drop") as bench:
        bench.push(at(1), at(67.012), at(59.999, came_at=67.013))
        bench.advance("1ms")
        assert bench.results == []
        bench.push(at(67.013, came_at=67.014), at(59.999, came_at=67.015))
        bench.advance("1ms")
        assert [one["n"] for one in bench.results] == [2]


def test_source_a_thousand_times_slower_holds_up_no_window(client: redis.Redis) -> None:
    def counted(source: Stream) -> Any:
        return source.time_window("1s", close_after="2s", lateness="1s").agg(n=("n", "sum"))  # type: ignore[attr-defined]

    slow = [Entry({"n": 1000}, topic="slow", id=f"{MINUTE + ms}-0", time_ms=MINUTE + ms - 500) for ms in (700, 100_700)]
    fast = [Entry({"n": 1}, topic="fast", id=f"{MINUTE + ms}-0", time_ms=MINUTE + ms) for ms in range(0, 102_000, 100)]
    with Bench(counted, topics=["slow", "fast"], client=client) as bench:
        bench.push(*slow, *fast)
        while bench.step():
            pass
        assert [one["n"] for one in bench.results[:2]] == [1010, 10]
        assert len(bench.results) > 95
        bench.drain()
        assert (sum(one["n"] for one in bench.results), bench.dead) == (2000 + len(fast), [])


def test_older_element_is_not_late_while_its_window_is_open(client: redis.Redis) -> None:
    """Wherever in a window the first element came: windows are aligned to the epoch, and not to that element."""
    with bench_of(client) as bench:
        bench.push(at(37.5), at(37.4, came_at=38), at(0.001, came_at=39), at(59.999), at(0, came_at=60))
        bench.drain()
        assert ([one["n"] for one in bench.results], bench.dead) == ([5], [])


def test_element_counts_in_those_of_its_windows_that_are_open(client: redis.Redis) -> None:
    """Windows of 10 s that begin every 4 s: an element is in two or in three of them, of which some may be closed."""
    with bench_of(client, size="10s", every="4s", close_after="1s") as bench:
        bench.push(*(at(n) for n in (0, 1, 8, 11, 14)), at(9, came_at=14.5), at(5, came_at=14.6))
        bench.drain()
        starts = {round(one["start"].timestamp()) - MINUTE // 1000: one["n"] for one in bench.results}
        # 9 came when those of its windows that end at 10 s and 14 s were closed; 5 when all of its windows were.
        assert starts == {-8: 2, -4: 2, 0: 3, 4: 2, 8: 4, 12: 1}
        assert [letter.entry for letter in bench.dead] == [at(5, came_at=14.6)]


@pytest.mark.parametrize("value", ["2023-11-14T22:14:00.5", pd.Timestamp("2023-11-14 22:14:00.5"), MINUTE + 500])
def test_event_time_comes_from_a_field(client: redis.Redis, value: Any) -> None:
    def counted(source: Stream) -> Any:
        return source.time_window("1min", by="when").agg(n=("n", "count"))  # type: ignore[attr-defined]

    with Bench(counted, client=client) as bench:
        bench.push(Entry({"n": 1, "when": value}, topic="topic", id=f"{MINUTE + 70_000}-0"))
        bench.drain()
        assert [round(one["start"].timestamp() * 1000) for one in bench.results] == [MINUTE]


def test_window_of_a_window_has_the_same_elements_live_and_in_a_replay(fresh_client: Fresh) -> None:
    def nested(source: Stream) -> Any:
        inner: Any = source.time_window("10ms", close_after="5ms", late="drop", key="key").agg(n=("value", "count"))
        return inner.time_window("30ms", close_after="5ms", late="drop").agg(n=("n", "sum"))

    elements = [Came(n, "left", n - n % 3, "ab"[n % 2], 1) for n in (1, 2, 4, 50, 60, 61, 90, 200)]
    found = [
        rows(lived(nested, elements, fresh_client(), life)) for life in (None, Life([1.0] * 8, [None] * 8, [True] * 8))
    ]
    assert found[0] == found[1]
    assert sum(int(row.partition("'n': ")[2].partition(",")[0].rstrip("}").split("}")[0]) for row in found[0]) == len(
        elements
    )


@pytest.mark.parametrize(
    ("options_", "word"),
    [
        ({"every": "2min"}, "gaps"), ({"size": "1.0001ms"}, "milliseconds"), ({"late": "never"}, "late"), ({"tz": "Mars"}, "tz"),
        ({"lateness": "x"}, "lateness"), ({"size": "36h", "tz": "Asia/Shanghai"}, "whole days"),
    ],
)  # fmt: skip
def test_option_that_cannot_be_used_is_refused_by_name(options_: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        Stream().time_window(**({"size": "1min"} | options_))  # type: ignore[attr-defined]


@pytest.mark.parametrize("named", [{}, {"n": "median"}, {"n": ("n", "nunique")}])
def test_aggregation_that_is_not_kept_is_refused(named: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="agg"):
        Stream().time_window("1min").agg(**named)  # type: ignore[attr-defined]


def test_element_that_raises_leaves_the_window_as_it_was(client: redis.Redis) -> None:
    with bench_of(client) as bench:
        bench.push(at(0), Entry({"m": 1}, topic="topic", id=f"{MINUTE + 1}-0"), at(2))
        bench.drain()
        assert [letter.node for letter in bench.dead] == ["time_window"]
        assert [one["n"] for one in bench.results] == [2]


def test_aggregation_of_entries_without_a_field_names_the_remedy() -> None:
    with Bench(lambda source: source.time_window("1s").agg(mean="mean")) as bench:  # type: ignore[attr-defined]
        bench.push({"price": 1})
        bench.drain()
        [letter] = bench.dead
    assert "name the field: mean=('field', 'mean')" in letter.exception
