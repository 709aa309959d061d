"""`join_interval`: equal to all pairs found by brute force, and in a replay equal to the live run, also after crashes and stops."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks import Entry, SettingsError
from tasks.nodes import join_interval as joins  # noqa: F401 - registers itself with streamz
from tasks.testing import Bench
from tasks.windows.interval_pairs import interval_pairs
from tests.support.windows import START, TOPICS, Came, Options, came, lived, lives, watermarks

Fresh = Callable[[], redis.Redis]


def sides(source: Stream) -> tuple[Any, Any]:
    return source.filter(lambda entry: entry.topic == "left"), source.filter(lambda entry: entry.topic == "right")


def joined(source: Stream, **given: Any) -> Any:
    left, right = sides(source)
    pairs = left.join_interval(right, key="key", late="drop", **given)
    return pairs.map(lambda pair: {"left": named(pair[0]), "right": pair[1] and named(pair[1])})


def named(entry: Any) -> str:
    return f"{entry.time_ms - START} {entry['key']} {entry['value']}"


def brute(elements: list[Came], drawn: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return the pairs of all elements on time, by the times of left and right, then in order of arrival."""
    given = Options(1, 1, drawn["lateness"], drawn["close_after"])
    on_time = [one for one, watermark in watermarks(elements, given, given.lateness) if one.time >= watermark]
    left, right = (sorted((o for o in on_time if o.topic == topic), key=lambda o: o.time) for topic in TOPICS)
    found: list[tuple[str, str | None]] = []
    for a in left:
        partners = [
            b for b in right if b.key == a.key and a.time - drawn["before"] <= b.time <= a.time + drawn["after"]
        ]
        names = [f"{b.time} {b.key} {b.value}" for b in partners]
        found += [(f"{a.time} {a.key} {a.value}", name) for name in names or [None] * (drawn["how"] == "left")]
    return found


GIVEN: Any = st.fixed_dictionaries(
    {
        "lateness": st.sampled_from([0, 5, 50]),
        "close_after": st.sampled_from([4, 25]),
        "before": st.sampled_from([0, 3, 40]),
        "after": st.sampled_from([0, 2, 30]),
        "how": st.sampled_from(["left", "inner"]),
    }
)


def as_given(drawn: dict[str, Any]) -> dict[str, Any]:
    return {name: f"{value}ms" if isinstance(value, int) else value for name, value in drawn.items()}


def pairs(bench: Bench) -> list[tuple[str, str | None]]:
    return [(one["left"], one["right"]) for one in bench.entries("results")]  # type: ignore[index]


@given(data=st.data(), drawn=GIVEN, elements=came(st.integers(-5, 5)))
def test_pairs_are_those_of_brute_force_in_any_life_and_in_a_replay(
    fresh_client: Fresh, data: st.DataObject, drawn: dict[str, Any], elements: list[Came]
) -> None:
    live = pairs(lived(joined, elements, fresh_client(), data.draw(lives(len(elements))), **as_given(drawn)))
    assert live == brute(elements, drawn)
    assert live == pairs(lived(joined, elements, fresh_client(), **as_given(drawn)))


@given(data=st.data(), drawn=GIVEN, elements=came(st.integers(-5, 5)))
def test_rows_of_frames_have_the_pairs_of_single_elements(
    fresh_client: Fresh, data: st.DataObject, drawn: dict[str, Any], elements: list[Came]
) -> None:
    given = as_given(drawn | {"lateness": drawn["lateness"] + 300})  # nothing is late

    def rows(entry: Any) -> list[dict[str, Any]]:
        times = [entry.time_ms, entry.time_ms - 2]
        return [
            {"time": time, "key": key, "value": f"{time - START}: {entry['value']}"}
            for time, key in zip(times, [entry["key"], "a"], strict=True)
        ]

    def framed(source: Stream, **given: Any) -> Any:
        left, right = (side.map(rows).map(pd.DataFrame) for side in sides(source))
        frames = left.join_interval(right, by="time", key="key", **given)
        columns = ["time", "key", "value", "time_right", "value_right"]
        return frames.map(lambda frame: frame.reindex(columns=columns).astype("object")).map(as_records).flatten()

    def single(source: Stream, **given: Any) -> Any:
        left, right = (side.map(rows).flatten() for side in sides(source))
        pairs = left.join_interval(right, by="time", key="key", **given)
        return pairs.starmap(lambda a, b: a | {f"{name}_right": b and b[name] for name in ("time", "value")})

    live = lived(framed, elements, fresh_client(), data.draw(lives(len(elements))), **given)
    found = sorted(repr(dict(one)) for one in live.entries("results"))  # type: ignore[arg-type]
    plain = lived(single, elements, fresh_client(), **given)
    assert found == sorted(repr(dict(one)) for one in plain.entries("results"))  # type: ignore[arg-type]


def as_records(frame: Any) -> list[dict[str, Any]]:
    """Return the rows with whole numbers, of which missing values in the same column have made floats, as in pandas' joins."""
    rows = frame.where(frame.notna(), None).to_dict("records")
    return [{name: int(value) if isinstance(value, float) else value for name, value in row.items()} for row in rows]


@pytest.mark.timeout(300)
@given(
    data=st.data(),
    elements=came(st.integers(-5, 5)),
    close_after=st.sampled_from([4, 25]),
    size=st.sampled_from([6, 30]),
)
def test_windows_of_both_sides_are_joined_the_same_in_a_replay(
    fresh_client: Fresh, data: st.DataObject, elements: list[Came], close_after: int, size: int
) -> None:
    """Both sides close by time between the same elements, however far time has passed when the run learns of it."""

    def of_windows(source: Stream) -> Any:
        given: Any = {"close_after": f"{close_after}ms", "late": "drop", "key": "key"}
        left, right = (
            side.time_window(f"{size}ms", stream_name=name, **given).agg(n=("value", "count"))
            for name, side in zip(TOPICS, sides(source), strict=True)
        )
        pairs = left.join_interval(right, key="key", by="start", how="left", close_after="20ms")
        return pairs.map(lambda pair: {"left": bar(pair[0]), "right": pair[1] and bar(pair[1])})

    live = pairs(lived(of_windows, elements, fresh_client(), data.draw(lives(len(elements)))))
    replay = lived(of_windows, elements, fresh_client())
    assert live == pairs(replay)
    assert replay.dead == []


def bar(row: Any) -> str:
    return f"{round(row['start'].timestamp() * 1000) - START} {row['key']} {row['n']}"


TIMES = st.lists(st.integers(-50, 50), max_size=12)


@given(left=TIMES, right=TIMES, keys=st.integers(1, 3), before=st.integers(0, 20), after=st.integers(0, 20))
def test_interval_pairs_equal_a_loop_over_all_rows(
    left: list[int], right: list[int], keys: int, before: int, after: int
) -> None:
    codes = np.arange(len(left) + len(right)) % keys
    found = interval_pairs(
        (codes[: len(left)], np.array(left, "int64")),
        (codes[len(left) :], np.array(right, "int64")),
        before=before,
        after=after,
    )
    expected: list[tuple[int, int]] = []
    for n, time in enumerate(left):
        partners = [
            m
            for m, other in enumerate(right)
            if codes[n] == codes[len(left) + m] and time - before <= other <= time + after
        ]
        expected += [(n, m) for m in sorted(partners, key=lambda m: right[m]) or [-1]]
    assert list(zip(*(each.tolist() for each in found), strict=True)) == expected


# --- examples ---


def entry(topic: str, n: int, ms: int, came_at: int | None = None, key: Any = "a") -> Entry:
    id_ = f"{START + (ms if came_at is None else came_at)}-0"
    return Entry({"n": n, "key": key}, topic=topic, id=id_, time_ms=START + ms)


def bench_of(client: redis.Redis, **given: Any) -> Bench:
    def numbers(source: Stream) -> Any:
        left, right = sides(source)
        found = left.join_interval(right, key="key", **given)
        return found.map(lambda pair: (pair[0]["n"], pair[1] and pair[1]["n"]))

    return Bench(numbers, topics=TOPICS, client=client)


def test_left_element_without_a_partner_comes_when_no_partner_can_come(client: redis.Redis) -> None:
    with bench_of(client, after="5s", how="left", close_after="10s") as bench:
        bench.push(entry("left", 1, 0))
        bench.advance("14s")
        assert bench.results == [], "a partner of 5 s may come for 10 s after the last entry"
        bench.advance("2s")
        assert bench.results == [(1, None)]


def test_interval_includes_its_bounds(client: redis.Redis) -> None:
    with bench_of(client, before="1s", after="2s", lateness="2s") as bench:
        times = {1: 8999, 2: 9000, 3: 12_000, 4: 12_001}
        bench.push(entry("left", 0, 10_000, 8000), *(entry("right", n, ms) for n, ms in times.items()))
        bench.drain()
        assert bench.results == [(0, 2), (0, 3)]


def test_elements_may_have_several_partners_on_both_sides(client: redis.Redis) -> None:
    with bench_of(client, before="2s") as bench:
        bench.push(*(entry("right", n, 1000 * n) for n in (1, 2, 3)), *(entry("left", n, 1000 * n) for n in (3, 4)))
        bench.drain()
        assert bench.results == [(3, 1), (3, 2), (3, 3), (4, 2), (4, 3)]


@pytest.mark.parametrize("key", [None, float("nan")])
def test_missing_keys_are_one_key_as_in_pandas(client: redis.Redis, key: Any) -> None:
    with bench_of(client, before="1s") as bench:
        bench.push(entry("right", 1, 0, key=None), entry("left", 2, 10, key=key))
        bench.drain()
        assert bench.results == [(2, 1)]


def test_right_elements_are_kept_no_longer_than_a_left_one_may_need_them(client: redis.Redis) -> None:
    with bench_of(client, before="100ms", close_after="1s") as bench:
        bench.push(*(entry("right", n, 10 * n, key=n) for n in range(3000)), entry("left", 0, 30_000))
        while bench.step():
            pass
        bench.stop()
        kept = [one for one in bench.state["join_interval"] if one and one[0] == "right"]
        assert len(kept) <= 1000, "keys that no longer come are swept"


def test_frames_are_kept_no_longer_than_a_left_row_may_need_them(client: redis.Redis) -> None:
    def framed(source: Stream) -> Any:
        def as_frame(entry: Any) -> pd.DataFrame:
            return pd.DataFrame({"time": [entry.time_ms] * 3, "n": entry["n"]})

        left, right = (side.map(as_frame) for side in sides(source))
        return left.join_interval(right, by="time", before="100ms", close_after="1s")

    with Bench(framed, topics=TOPICS, client=client) as bench:
        bench.push(*(entry("right", n, 10 * n) for n in range(200)), entry("left", -1, 1990, 2000))
        bench.drain()
        [found] = bench.results
        assert sorted(found["n_right"]) == sorted([*range(189, 200)] * 9)
        bench.stop()
        parts = [part for one, part in bench.state["join_interval"].items() if one and one[0] == "rows"]
        assert sum(map(len, parts)) < 3 * 64


def test_failure_behind_a_pair_dead_letters_the_left_entry(client: redis.Redis) -> None:
    def refusing(source: Stream) -> Any:
        left, right = sides(source)
        return left.join_interval(right, before="1s").map(lambda pair: 1 / pair[1]["n"])

    with Bench(refusing, topics=TOPICS, client=client) as bench:
        bench.push(entry("right", 0, 0), entry("left", 5, 10), entry("right", 1, 2000), entry("left", 6, 2010))
        bench.crash(after=2)
        bench.drain()
        assert [letter.entry for letter in bench.dead] == [entry("left", 5, 10)]
        assert bench.results == [1.0]


def test_side_that_catches_up_after_a_restart_gets_all_of_its_pairs(client: redis.Redis) -> None:
    with bench_of(client, before="3s", close_after="1min", how="left") as bench:
        bench.push(entry("right", 1, 1000), entry("left", 10, 3000), entry("left", 11, 9000))
        bench.advance("1s")
        assert bench.results == [], "the right side may have one of 2 s"
        bench.crash()
        bench.push(entry("right", 2, 2000, 20_000), entry("right", 9, 9500, 20_001))
        bench.drain()
        assert bench.results == [(10, 1), (10, 2), (11, None)]


def test_windows_of_one_side_wait_for_those_of_the_other(client: redis.Redis) -> None:
    """No window of the slower side is late because the other side has emitted several."""

    def of_windows(source: Stream) -> Any:
        left, right = (
            side.time_window("1s", close_after="1min", stream_name=name).agg(n=("n", "sum"))
            for name, side in zip(TOPICS, sides(source), strict=True)
        )
        pairs = left.join_interval(right, by="start", close_after="1min")
        return pairs.starmap(lambda one, other: (one["n"], other["n"]))

    with Bench(of_windows, topics=TOPICS, client=client) as bench:
        bench.push(
            *(entry("left", n, 1000 * n) for n in range(5)), *(entry("right", n, 1000 * n, 5000 + n) for n in range(5))
        )
        bench.drain()
        assert bench.results == [(n, n) for n in range(5)]


@pytest.mark.parametrize("named", [{"how": "outer"}, {"before": "x"}, {"after": "-1s"}, {"late": "update"}])
def test_option_of_an_interval_that_cannot_be_used_is_refused(named: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(named))):
        Stream().join_interval(Stream(), **named)  # type: ignore[attr-defined]


def test_stream_is_not_joined_with_itself() -> None:
    stream = Stream()
    with pytest.raises(SettingsError, match="another stream"):
        stream.join_interval(stream)  # type: ignore[attr-defined]
