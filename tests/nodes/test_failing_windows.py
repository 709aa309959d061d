"""Late rows and failures at a `time_window`: their dead letters, and what a replay gives back."""

from typing import Any

import pandas as pd
import pytest
import redis
from streamz import Stream

from tasks import Entry, PipelineError
from tasks.group.dead_letters import DeadLetters
from tasks.nodes import time_window as windows_of_time  # noqa: F401 - registers itself with streamz
from tasks.testing import Bench
from tests.support.windows import MINUTE, at


def partly_late(client: redis.Redis, late: list[str], **options_: Any) -> Bench:
    """Return a bench on which some rows of the second frame were late."""

    def counted(source: Stream) -> Any:
        frames = source.pluck("quotes").map(pd.DataFrame)
        windows: Any = frames.time_window("1min", by="time", key="key", lateness="1s", stream_name="minutes")
        return windows.agg(n=("n", "sum")).map(lambda frame: frame.reset_index().to_dict("records")).flatten()

    def entry(came_at: int, *rows: tuple[str, float]) -> Entry:
        made = [{"time": MINUTE + round(1000 * time), "key": key, "n": 1} for key, time in rows]
        return Entry({"quotes": made}, topic="topic", id=f"{MINUTE + 1000 * came_at}-0")

    bench = Bench(counted, client=client, options=options_)
    bench.push(entry(61, ("a", 1), ("a", 61)), entry(62, ("a", 62), *((key, 5.0) for key in late)))
    while bench.step():
        pass
    return bench


@pytest.mark.parametrize("keep_state", [True, False])
def test_late_rows_that_are_given_back_are_those_of_their_node_only(client: redis.Redis, keep_state: bool) -> None:
    with partly_late(client, ["b", "c"], keep_state=keep_state) as bench:
        bench.drain()
        assert [(one["key"], one["n"]) for one in bench.results] == [("a", 1), ("a", 2)]
        [letter] = bench.dead
        assert ([*letter.entry["rows"]["key"]], letter.node) == (["b", "c"], "minutes")  # type: ignore[index]
        assert "2 of 3" in letter.exception
        bench.stop()
        bench.client.delete("sluice:state:group")
        letters = DeadLetters(client, "topic", "group")
        assert [outcome for _, outcome in letters.replay(letters.choose(), into_windows=True)] == ["replayed"]
        bench.results.clear()
        bench.drain()
        assert [(one["key"], one["n"]) for one in bench.results] == [("b", 1), ("c", 1)]
        assert (bench.dead, bench.pending) == ([], [])


def test_late_rows_that_are_given_back_too_late_are_the_same_letter_again(client: redis.Redis) -> None:
    with partly_late(client, ["b"]) as bench:
        before = bench.dead
        bench.stop()
        letters = DeadLetters(client, "topic", "group")
        assert [outcome for _, outcome in letters.replay(letters.choose(), into_windows=True)] == ["replayed"]
        bench.drain()
        assert [(one.entry["rows"].to_dict(), one.node) for one in bench.dead] == [
            (one.entry["rows"].to_dict(), one.node) for one in before
        ]  # type: ignore[index]
        assert [letter.retries for letter in letters.choose()] == [1]
        assert [(one["key"], one["n"]) for one in bench.results] == [("a", 1), ("a", 2)]


def test_late_rows_for_a_node_that_is_gone_stay_a_letter(client: redis.Redis) -> None:
    with partly_late(client, ["b"], keep_state=False) as bench:
        bench.stop()
        letters = DeadLetters(client, "topic", "group")
        assert [outcome for _, outcome in letters.replay(letters.choose(), into_windows=True)] == ["replayed"]
    with Bench(lambda source: source, client=client) as renamed:
        renamed.drain()
        assert renamed.results == []
        assert ["minutes" in letter.exception for letter in letters.choose()] == [True]


def test_late_rows_stop_the_run_where_failures_do(client: redis.Redis) -> None:
    with pytest.raises(PipelineError, match="late"):
        partly_late(client, ["b"], on_error="stop")


def test_failure_behind_a_window_of_elements_dead_letters_exactly_these(client: redis.Redis) -> None:
    def refusing(source: Stream) -> Any:
        windows: Any = source.time_window("1min", key="n")
        return windows.map(lambda window: 1 / window.key)

    with Bench(refusing, client=client) as bench:
        bench.push(at(0, n=0), at(1, n=1), at(2, n=0))
        bench.crash(after=3)
        bench.drain()
        assert [letter.entry for letter in bench.dead] == [at(0, n=0), at(2, n=0)]
        assert bench.results == [1.0]


def test_failure_on_an_aggregation_stops_the_run_which_emits_it_again(client: redis.Redis) -> None:
    def refusing(source: Stream) -> Any:
        windows: Any = source.time_window("1min").agg(n=("n", "sum"))
        return windows.map(lambda row: row if is_repaired else 1 / 0)

    is_repaired = False
    with Bench(refusing, client=client, options={"on_error": "stop"}) as bench:
        bench.push(at(0), at(1))
        with pytest.raises(PipelineError, match="ZeroDivisionError"):
            bench.drain()
        is_repaired = True
        bench.crash()
        bench.drain()
        assert [row["n"] for row in bench.results] == [2]


def test_failed_result_of_a_window_is_logged_as_dropped(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: dict[str, Any]) -> None:
        msg = "full"
        raise OSError(msg)

    with Bench(lambda source: source.time_window("1s").agg(n=("n", "count")).sink(fail)) as bench:  # type: ignore[attr-defined]
        bench.push({"n": 1})
        bench.drain()
        assert bench.dead == []
    assert (
        "a result that belongs to no entry: node 'sink(fail)' of group 'group' raised OSError: full; it and all"
        in caplog.text
    )
    assert "are dropped and counted" in caplog.text
