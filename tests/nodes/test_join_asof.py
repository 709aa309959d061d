"""`join_asof`: equal to `pandas.merge_asof` over all elements at once, also after crashes and stops."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks import Entry, SettingsError
from tasks.group.dead_letters import DeadLetters
from tasks.nodes import join_asof as joins  # noqa: F401 - registers itself with streamz
from tasks.testing import Bench
from tests.support.windows import START, TOPICS, Came, Options, came, lived, lives, watermarks

Fresh = Callable[[], redis.Redis]


def sides(source: Stream) -> tuple[Stream, Stream]:
    return source.filter(lambda entry: entry.topic == "left"), source.filter(lambda entry: entry.topic == "right")


def joined(source: Stream, **given: Any) -> Any:
    left, right = sides(source)
    pairs: Any = left.join_asof(right, key="key", late="drop", **given)  # type: ignore[attr-defined]
    return pairs.map(lambda pair: {"left": named(pair[0]), "right": pair[1] and named(pair[1])})


def named(entry: Any) -> str:
    return f"{entry.time_ms - START} {entry['key']} {entry['value']}"


def merged(elements: list[Came], drawn: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return the pairs of pandas, of elements by time."""
    options = {name: drawn[name] for name in ("tolerance", "allow_exact_matches")}
    table = pd.DataFrame(
        {
            "time": [one.time for one in elements],
            "key": [one.key for one in elements],
            "topic": [one.topic for one in elements],
        }
    ).assign(name=[f"{one.time} {one.key} {one.value}" for one in elements])
    table = table.sort_values("time", kind="stable").astype({"time": "int64", "key": "object"})
    left, right = (table[table["topic"] == topic].drop(columns="topic") for topic in TOPICS)
    pairs: Any = pd.merge_asof(left, right, on="time", by="key", suffixes=("", "_right"), **options)
    found = [(a, None if pd.isna(b) else b) for a, b in zip(pairs["name"], pairs["name_right"], strict=True)]
    return [pair for pair in found if drawn["how"] == "left" or pair[1] is not None]


def on_time(elements: list[Came], lateness: int, close_after: int | None) -> list[Came]:
    given = Options(1, 1, lateness, close_after)
    return [element for element, watermark in watermarks(elements, given, lateness) if element.time >= watermark]


GIVEN: Any = st.fixed_dictionaries(
    {
        "lateness": st.sampled_from([0, 5, 50]),
        "close_after": st.sampled_from([4, 25]),
        "tolerance": st.none() | st.sampled_from([0, 3, 40]),
        "how": st.sampled_from(["left", "inner"]),
        "allow_exact_matches": st.booleans(),
    }
)


def as_given(drawn: dict[str, Any]) -> dict[str, Any]:
    return {name: f"{value}ms" if type(value) is int else value for name, value in drawn.items()}


@given(data=st.data(), drawn=GIVEN, elements=came(st.integers(-5, 5)))
def test_pairs_are_those_of_pandas_in_any_life_and_in_a_replay(
    fresh_client: Fresh, data: st.DataObject, drawn: dict[str, Any], elements: list[Came]
) -> None:
    life = data.draw(lives(len(elements)))
    found = pairs(lived(joined, elements, fresh_client(), life, **as_given(drawn)))
    assert found == pairs(lived(joined, elements, fresh_client(), **as_given(drawn)))
    expected = merged(on_time(elements, drawn["lateness"], drawn["close_after"]), drawn)
    assert sorted(found, key=repr) == sorted(expected, key=repr)


def pairs(bench: Bench) -> list[tuple[str, str | None]]:
    return [(one["left"], one["right"]) for one in bench.entries("results")]  # type: ignore[index]


def framed(source: Stream, **given: Any) -> Any:
    def as_frame(entry: Any) -> pd.DataFrame:
        times = [entry.time_ms, entry.time_ms - 2]
        return pd.DataFrame(
            {"time": times, "key": [entry["key"], "a"], "value": [f"{t - START}: {entry['value']}" for t in times]}
        )

    left, right = (side.map(as_frame) for side in sides(source))
    frames: Any = left.join_asof(right, by="time", key="key", late="drop", **given)  # type: ignore[attr-defined]
    return frames.map(
        lambda frame: (
            frame.reindex(columns=["time", "key", "value", "value_right"])
            .astype("object")
            .where(frame.notna(), None)
            .to_dict("records")
        )
    ).flatten()


@given(data=st.data(), drawn=GIVEN, elements=came(st.integers(-5, 5)))
def test_rows_of_frames_are_joined_like_single_elements(
    fresh_client: Fresh, data: st.DataObject, drawn: dict[str, Any], elements: list[Came]
) -> None:
    given = as_given(drawn | {"lateness": drawn["lateness"] + 300})  # nothing is late

    def single(source: Stream, **given: Any) -> Any:
        def rows(entry: Any) -> list[dict[str, Any]]:
            times = [entry.time_ms, entry.time_ms - 2]
            return [
                {"time": time, "key": key, "value": f"{time - START}: {entry['value']}"}
                for time, key in zip(times, [entry["key"], "a"], strict=True)
            ]

        left, right = (side.map(rows).flatten() for side in sides(source))
        joined: Any = left.join_asof(right, by="time", key="key", **given)  # type: ignore[attr-defined]
        return joined.map(lambda pair: {**pair[0], "value_right": pair[1] and pair[1]["value"]})

    live = lived(framed, elements, fresh_client(), data.draw(lives(len(elements))), **given)
    found = sorted(repr(dict(one)) for one in live.entries("results"))  # type: ignore[arg-type]
    plain = lived(single, elements, fresh_client(), **given)
    assert found == sorted(repr(dict(one)) for one in plain.entries("results"))  # type: ignore[arg-type]


# Trades join the quote before them: (second, code, number) of each, and for each trade by time the number of its quote.
QUOTES: Any = [(1, "a", 10), (2, "b", 20), (4, "a", 11), (4, "a", 12), (9, None, 90)]
MERGES: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "the last quote that is not newer": ({}, [(0, "a", 0), (1, "a", 1), (3, "a", 2), (8, "a", 3)], [None, 10, 10, 12]),
    "of one time, the quote that came last": ({}, [(4, "a", 0)], [12]),
    "the quote of the same key": ({"key": "code"}, [(3, "a", 0), (3, "b", 1), (3, "c", 2)], [10, 20, None]),
    "without a key, the quote of any code": ({"key": None}, [(3, "a", 0), (3, "c", 1)], [20, 20]),
    "missing keys are one key": ({}, [(9, float("nan"), 0), (9, None, 1)], [90, 90]),
    "several keys": ({"key": ["code", "venue"]}, [(3, "a", 0)], [10]),
    "as old as the tolerance": ({"tolerance": "2s"}, [(3, "a", 0), (6, "a", 1)], [10, 12]),
    "no older than the tolerance": ({"tolerance": "1s"}, [(3, "a", 0), (7, "a", 1)], [None, None]),
    "a tolerance of nothing": ({"tolerance": 0}, [(1, "a", 0), (2, "a", 1)], [10, None]),
    "only older quotes": ({"allow_exact_matches": False}, [(1, "a", 0), (4, "a", 1), (5, "a", 2)], [None, 10, 12]),
    "only older quotes within the tolerance": (
        {"allow_exact_matches": False, "tolerance": "2s"}, [(2, "a", 0), (4, "a", 1)], [10, None],
    ),
    "trades with a quote": ({"how": "inner"}, [(0, "a", 0), (1, "a", 1)], [10]),
    "rows in any order": ({}, [(8, "a", 1), (1, "a", 0)], [10, 12]),
}  # fmt: skip


@pytest.mark.parametrize("of_frames", [False, True], ids=["entries", "frames"])
@pytest.mark.parametrize("case", MERGES, ids=lambda name: name.replace(" ", "_"))
def test_trade_is_joined_with(fake_redis: redis.Redis, case: str, of_frames: bool) -> None:
    given, trades, expected = MERGES[case]
    columns = ["time", "code", "number"]

    def at_once(source: Stream) -> Any:
        left, right = (side.pluck("rows").map(as_rows) for side in sides(source))
        left, right = (left, right) if of_frames else (left.flatten(), right.flatten())
        return left.join_asof(right, **{"by": "time", "key": "code", "lateness": "1min"} | given)  # type: ignore[attr-defined]

    def as_rows(rows: list[Any]) -> Any:
        frame = pd.DataFrame(rows, columns=columns)
        frame = frame.assign(time=1000 * frame["time"] + START, venue=frame["code"])
        return frame if of_frames else frame.to_dict("records")

    with Bench(at_once, topics=TOPICS, client=fake_redis) as bench:
        entries = {topic: {"rows": [*map(list, rows)]} for topic, rows in zip(TOPICS, (trades, QUOTES), strict=True)}
        bench.push(*(Entry(fields, topic=topic, id=f"{START}-0") for topic, fields in entries.items()))
        bench.drain()
        if of_frames:
            found = [None if pd.isna(n) else n for frame in bench.results for n in frame["number_right"]]
        else:
            found = [right and right["number"] for _, right in bench.results]
        assert (found, bench.dead) == (expected, [])


def test_left_side_waits_for_a_right_one_that_catches_up_after_a_restart(client: redis.Redis) -> None:
    def quoted(source: Stream) -> Any:
        left, right = sides(source)
        found: Any = left.join_asof(right, close_after="1min")  # type: ignore[attr-defined]
        return found.map(lambda pair: (pair[0]["n"], pair[1] and pair[1]["n"]))

    def entry(topic: str, n: int, ms: int, came_at: int) -> Entry:
        return Entry({"n": n}, topic=topic, id=f"{START + came_at}-0", time_ms=START + ms)

    with Bench(quoted, topics=TOPICS, client=client) as bench:
        bench.push(entry("right", 1, 1000, 1000), entry("left", 10, 3000, 3000), entry("left", 11, 9000, 9000))
        bench.advance("1s")
        assert bench.results == [], "the right side may have one of 2 s"
        bench.crash()
        bench.push(entry("right", 2, 2000, 20_000), entry("right", 9, 9500, 20_001))
        bench.advance("1s")
        assert bench.results == [(10, 2)]
        bench.drain()
        assert bench.results == [(10, 2), (11, 2)]


@pytest.mark.parametrize("side", TOPICS)
def test_late_rows_of_a_side_are_given_back_to_this_side(client: redis.Redis, side: str) -> None:
    def quoted(source: Stream) -> Any:
        left, right = (each.pluck("rows").map(pd.DataFrame) for each in sides(source))
        return left.join_asof(right, by="time", close_after=None, lateness=lateness)  # type: ignore[attr-defined]

    def entry(topic: str, came_at: int, *times: int) -> Entry:
        rows = [{"time": START + time, topic: time} for time in times]
        return Entry({"rows": rows}, topic=topic, id=f"{START + came_at}-0")

    lateness = "0s"
    with Bench(quoted, topics=TOPICS, client=client) as bench:
        bench.push(*(entry(topic, 5000, 5000) for topic in TOPICS), entry(side, 6000, 1000, 6000))
        while bench.step():
            pass
        assert [[*letter.entry["rows"][side]] for letter in bench.dead] == [[1000]]  # type: ignore[index]
        bench.stop()
        client.delete("sluice:state:group")
        lateness = "1min"
        other = {"left": "right", "right": "left"}[side]
        bench.push(entry(other, 7000, 1500 if other == "left" else 500))
        letters = DeadLetters(client, side, "group")
        assert [outcome for _, outcome in letters.replay(letters.choose(), into_windows=True)] == ["replayed"]
        bench.drain()
        bench.push(*(entry(topic, 8000, 63_000) for topic in TOPICS))
        bench.drain()
        assert bench.dead == []
        [frame] = bench.results
        assert frame[TOPICS].to_dict("records") == [
            {"left": 1000, "right": 500} if side == "left" else {"left": 1500, "right": 1000}
        ]


@pytest.mark.parametrize("named", [{"how": "outer"}, {"tolerance": "x"}, {"late": "update"}])
def test_option_of_a_join_that_cannot_be_used_is_refused(named: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(named))):
        Stream().join_asof(Stream(), **named)  # type: ignore[attr-defined]
