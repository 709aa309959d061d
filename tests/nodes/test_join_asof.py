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


def merged(elements: list[Came], tolerance: int | None, how: str) -> list[tuple[str, str | None]]:
    """Return the pairs of pandas, of elements by time."""
    table = pd.DataFrame(
        {
            "time": [one.time for one in elements],
            "key": [one.key for one in elements],
            "topic": [one.topic for one in elements],
        }
    ).assign(name=[f"{one.time} {one.key} {one.value}" for one in elements])
    table = table.sort_values("time", kind="stable").astype({"time": "int64", "key": "object"})
    left, right = (table[table["topic"] == topic].drop(columns="topic") for topic in TOPICS)
    pairs: Any = pd.merge_asof(left, right, on="time", by="key", tolerance=tolerance, suffixes=("", "_right"))
    found = [(a, None if pd.isna(b) else b) for a, b in zip(pairs["name"], pairs["name_right"], strict=True)]
    return [pair for pair in found if how == "left" or pair[1] is not None]


def on_time(elements: list[Came], lateness: int, close_after: int | None) -> list[Came]:
    given = Options(1, 1, lateness, close_after)
    return [element for element, watermark in watermarks(elements, given, lateness) if element.time >= watermark]


GIVEN: Any = st.fixed_dictionaries(
    {
        "lateness": st.sampled_from([0, 5, 50]),
        "close_after": st.sampled_from([4, 25]),
        "tolerance": st.none() | st.sampled_from([0, 3, 40]),
        "how": st.sampled_from(["left", "inner"]),
    }
)


def as_given(drawn: dict[str, Any]) -> dict[str, Any]:
    return {name: f"{value}ms" if isinstance(value, int) else value for name, value in drawn.items()}


@given(data=st.data(), drawn=GIVEN, elements=came(st.integers(-5, 5)))
def test_pairs_are_those_of_pandas_in_any_life_and_in_a_replay(
    fresh_client: Fresh, data: st.DataObject, drawn: dict[str, Any], elements: list[Came]
) -> None:
    life = data.draw(lives(len(elements)))
    found = pairs(lived(joined, elements, fresh_client(), life, **as_given(drawn)))
    assert found == pairs(lived(joined, elements, fresh_client(), **as_given(drawn)))
    expected = merged(on_time(elements, drawn["lateness"], drawn["close_after"]), drawn["tolerance"], drawn["how"])
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


@pytest.mark.parametrize("named", [{"how": "outer"}, {"tolerance": "x"}, {"late": "update"}])
def test_option_of_a_join_that_cannot_be_used_is_refused(named: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(named))):
        Stream().join_asof(Stream(), **named)  # type: ignore[attr-defined]
