"""The test kit shows the outcome of a pipeline, controls its time, and draws valid entries."""

import asyncio
import contextvars
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream
from tornado.ioloop import IOLoop

from tasks import EncodeError, PipelineError, PumpError, SettingsError, codec, has
from tasks.testing import Bench, Dead, Pushed, drain, entries, frames, pumped, values
from tasks.testing.virtual_time import VirtualLoop
from tests.support.pipelines import SEGMENTS, Witness, members, pipelines

Fresh = Callable[[], redis.Redis]
NUMBERS = [{"n": n} for n in range(7)]


def numbers(source: Stream) -> Stream:
    return source.pluck("n")


@given(pipelines, entries(n=st.integers(), topics=["one", "two"]), st.none() | st.integers(0, 10), st.data())
def test_every_entry_is_either_acked_dead_or_pending_in_any_pipeline(
    segments: list[str], pushed: list[Pushed], crash_after: int | None, data: st.DataObject
) -> None:
    witness = Witness({f"{e.topic}/{e.id}": data.draw(st.sampled_from(["", "a", "b"])) for e in pushed})

    def build(source: Stream) -> Stream:
        stream = source.map(lambda e: f"{e.topic}/{e.id}")
        for segment in segments:
            stream = SEGMENTS[segment].build(stream, witness)
        return stream

    used = [SEGMENTS[each] for each in segments]
    # Beside a kept state, such as that of accumulate, windows are stored as well, and the entries that they hold are acknowledged.
    options = {"keep_state": not any(each.keeps or each.regroups for each in used)}
    run = drain(build, pushed, crash_after=crash_after, topics=["one", "two"], options=options)
    dead = [letter.entry for letter in run.dead]
    assert sorted(map(id, [*run.acked, *run.pending, *dead])) == sorted(map(id, pushed))
    assert run.unread == []
    if not any(each.loses for each in used):
        had = {one for result in run.results for one in members(result)}
        assert {f"{e.topic}/{e.id}" for e in run.acked} <= had | witness.dropped
    assert {f"{e.topic}/{e.id}" for e in dead} <= set(witness.failed)


@given(entries(n=st.integers(), topics=["left", "right"]), st.none() | st.integers(0, 12))
def test_a_crash_repeats_the_last_entry_that_was_given_and_loses_none(
    fresh_client: Fresh, pushed: list[Pushed], crash_after: int | None
) -> None:
    run = drain(
        lambda s: s.map(lambda e: f"{e.topic} {e.id}"),
        pushed,
        crash_after=crash_after,
        into="out",
        topics=["left", "right"],
        client=fresh_client(),
    )
    once = list(dict.fromkeys(run.results))
    for topic in ("left", "right"):
        assert [one for one in once if one.startswith(topic)] == [f"{topic} {e.id}" for e in pushed if e.topic == topic]
    assert len(run.results) - len(once) == bool(crash_after and crash_after <= len(pushed))
    assert [entry["out"] for entry in run.entries("out")] == once
    assert run.acked == pushed


def test_entries_read_ahead_at_a_crash_are_delivered_twice() -> None:
    run = drain(lambda s: s.map(lambda e: (e["n"], e.deliveries)), NUMBERS, crash_after=3)
    assert run.results == [(0, 1), (1, 1), (2, 1), (2, 2), *((n, 2) for n in range(3, 7))]
    run = drain(lambda s: s.map(lambda e: (e["n"], e.deliveries)), NUMBERS, crash_after=0)
    assert run.results == [(n, 2) for n in range(7)]


def test_stop_gives_back_the_entries_of_a_window_to_the_next_life() -> None:
    with Bench(lambda s: numbers(s).sliding_window(3, return_partial=False)) as bench:
        bench.push(*NUMBERS[:4])
        bench.drain()
        bench.stop()
        assert (bench.results, bench.pending) == ([(0, 1, 2), (1, 2, 3)], NUMBERS[2:4])
        bench.push(*NUMBERS[4:5])
        assert bench.unread == NUMBERS[4:5]
        bench.drain()
        assert bench.results[2:] == [(2, 3, 4)]
        assert (bench.acked, bench.pending) == (NUMBERS[:3], NUMBERS[3:5])
        assert repr(bench) == "Bench(3 results, 3 acked, 2 pending, 0 dead, 0 unread)"


def test_step_reads_once_and_other_entries_stay_unread() -> None:
    with Bench(numbers, options={"max_entries": 3}) as bench:
        bench.push(*NUMBERS)
        assert (bench.step(), bench.results) == (3, [0, 1, 2])
        assert (bench.acked, bench.unread) == (NUMBERS[:3], NUMBERS[3:])


def test_dead_letter_has_the_pushed_entry_the_node_and_the_error() -> None:
    def halve(n: Any) -> float:
        return n / 2

    poison = {b"n": b"\xff\xff\xff\xff no Arrow stream"}
    run = drain(lambda s: numbers(s).map(halve), [{"n": 4}, {"n": "4"}, poison, {"n": 6}])
    assert run.results == [2.0, 3.0]
    first, second = run.dead
    assert first == Dead(
        {"n": "4"}, "map(halve)", """TypeError("unsupported operand type(s) for /: 'str' and 'int'")"""
    )
    assert (second.entry, second.node) == (poison, "decode")


def test_with_on_error_stop_the_error_is_raised_and_the_entry_stays_pending() -> None:
    with Bench(lambda s: numbers(s).map(lambda n: 1 / n), options={"on_error": "stop"}) as bench:
        bench.push({"n": 1}, {"n": 0})
        with pytest.raises(PipelineError, match="ZeroDivisionError"):
            bench.drain()
        assert (bench.results, bench.acked, bench.pending) == ([1.0], [{"n": 1}], [{"n": 0}])


async def wait_for_ever(_: Any) -> None:
    await asyncio.Event().wait()


async def try_for_ever(_: Any) -> None:
    while True:  # noqa: ASYNC110 - as a sink that tries again
        await asyncio.sleep(600)


@pytest.mark.parametrize("never", [wait_for_ever, try_for_ever])
def test_drain_gives_up_on_a_pipeline_that_never_ends_and_names_its_nodes(never: Any) -> None:
    for build, nodes in ((lambda s: s.sink(never), ""), (lambda s: s.buffer(2).sink(never), "'buffer', ")):
        with pytest.raises(PipelineError, match=rf"busy with the same entries, in {nodes}'sink\({never.__name__}\)'"):
            drain(build, NUMBERS)
    with Bench(lambda s: s.buffer(9).sink(never)) as bench:
        bench.push(*NUMBERS)
        assert bench.step() == 7
        with pytest.raises(PipelineError, match="busy with the same entries"):
            bench.advance("2 days")


async def later(n: int) -> int:
    await asyncio.sleep(3600 - n)
    return n


@pytest.mark.parametrize(
    "build",
    [
        lambda s: s.rate_limit(3600),
        lambda s: s.delay("1h"),
        lambda s: s.map_async(later, parallelism=3),
        lambda s: s.timed_window(3600).flatten(),
        lambda s: s.timed_window(0.1).flatten().timed_window(60).flatten().partition(9, timeout=100).flatten(),
    ],
    ids=["rate_limit", "delay", "map_async", "timed_window", "chain"],
)
def test_waiting_takes_no_time_and_keeps_the_order(build: Callable[[Stream], Stream]) -> None:
    run = drain(lambda s: build(numbers(s)), NUMBERS)
    assert (run.results, run.acked) == (list(range(7)), NUMBERS)


def test_entries_that_come_apart_fall_into_different_windows() -> None:
    run = drain(lambda s: numbers(s).timed_window("1s").filter(bool), NUMBERS, every="400ms")
    assert run.results == [[0, 1, 2], [3, 4], [5, 6]]


def test_entries_that_come_apart_may_be_interrupted_by_a_crash() -> None:
    run = drain(lambda s: numbers(s).timed_window(3).filter(bool), NUMBERS, every=1, crash_after=2)
    assert run.results == [[0, 1, 2, 3], [4, 5, 6]]
    assert run.acked == NUMBERS


def test_stop_waits_for_work_in_progress() -> None:
    with Bench(lambda s: numbers(s).map_async(later, parallelism=3)) as bench:
        bench.push(*NUMBERS[:3])
        bench.step()
        assert bench.results == []
        bench.stop()
        assert (bench.results, bench.acked) == ([0, 1, 2], NUMBERS[:3])


def test_time_advances_by_the_given_seconds() -> None:
    with Bench(lambda s: numbers(s).partition(9, timeout=60)) as bench:
        bench.push(*NUMBERS)
        bench.advance(59)
        assert (bench.results, bench.pending) == ([], NUMBERS)
        bench.advance(1)
        assert (bench.results, bench.acked) == ([tuple(range(7))], NUMBERS)


def test_call_in_a_thread_is_awaited_and_never_times_out_early() -> None:
    async def in_a_thread(n: int) -> int:
        return await asyncio.wait_for(asyncio.to_thread(blocking, n), timeout=30)

    def blocking(n: int) -> int:
        threading.Event().wait(0.01)  # like a blocking call
        return n

    assert drain(lambda s: numbers(s).map_async(in_a_thread), NUMBERS[:2]).results == [0, 1]


def test_threads_that_take_a_moment_to_end_are_waited_for_in_real_time() -> None:
    class Slow(ThreadPoolExecutor):
        def shutdown(self, *args: Any, **kwargs: Any) -> None:
            threading.Event().wait(0.05)
            super().shutdown(*args, **kwargs)
            ended.append(True)

    async def in_a_thread(n: int) -> int:
        asyncio.get_running_loop().set_default_executor(Slow(1))
        return await asyncio.to_thread(abs, n)

    ended: list[bool] = []
    assert drain(lambda s: numbers(s).map_async(in_a_thread), NUMBERS[:1]).results == [0]
    assert ended


def test_replies_through_a_socket_are_awaited_in_real_time() -> None:
    def answer(server: socket.socket) -> None:
        for _ in range(2):
            connection, _ = server.accept()
            with connection:
                line = connection.recv(100)
                threading.Event().wait(0.01)  # like a user between two cells
                connection.sendall(line)

    async def over_a_socket(n: int) -> int:
        reader, writer = await asyncio.open_connection(*server.getsockname())
        writer.write(f"{n}\n".encode())
        line = await asyncio.wait_for(reader.readline(), timeout=30)
        writer.close()
        return int(line)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,), daemon=True)
        thread.start()
        assert drain(lambda s: numbers(s).map_async(over_a_socket), NUMBERS[:2]).results == [0, 1]
        thread.join(20)


def test_the_clock_of_a_loop_leaps_to_each_timer_in_turn() -> None:
    fired: list[tuple[str, float]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.make_current()
        for name, after in (("late", 86_400.0), ("soon", 0.25)):
            loop.call_later(after, lambda name=name: fired.append((name, loop.time())))
        IOLoop.current().call_later(3600, lambda: fired.append(("tornado", loop.time())))
        assert await loop.idle() == 0.25
        await asyncio.sleep(86_400)
        assert await loop.idle() is None

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    assert fired == [("soon", 0.25), ("tornado", 3600.0), ("late", 86_400.0)]


def test_entries_that_cannot_be_pushed_are_refused() -> None:
    bench = Bench(numbers, topics="numbers")
    with pytest.raises(SettingsError, match=r"topics that are read, \['numbers'\], got one of 'other'"):
        bench.push(Pushed({"n": 1}, topic="other", id="1-0"))
    with pytest.raises(EncodeError, match="field 'n'"):
        bench.push({"n": object()})
    bench.push({"n": 1})
    with pytest.raises(SettingsError, match="ids are above those of their topic"):
        bench.push(Pushed({"n": 1}, topic="numbers", id="1-0"))
    assert bench.unread == [{"n": 1}]


def test_pumped_entries_are_those_that_outlets_see_or_an_error_names_the_reason() -> None:
    def table(rows: int) -> pd.DataFrame:
        return pd.DataFrame({"n": range(rows)})

    async def both() -> list[Any]:
        return [{"n": (1)}, table(2)]

    [entry] = pumped(table, rows=3)
    assert entry["table"].equals(table(3))
    assert [list(entry) for entry in pumped(both)] == [["n"], ["both"]]
    assert pumped(lambda: None) == []
    with pytest.raises(PumpError, match="got int"):
        pumped(lambda: 3)
    with pytest.raises(EncodeError, match="field 'n'"):
        pumped(lambda: {"n": {1, 2}})


def test_the_kit_works_where_a_loop_runs_already_and_sees_its_context() -> None:
    where = contextvars.ContextVar("where", default="nowhere")

    async def later(n: int) -> tuple[int, str]:
        await asyncio.sleep(3600)
        return n, where.get()

    async def answer() -> dict[str, int]:
        return {"n": 42}

    def pump() -> dict[str, int]:
        return asyncio.run(answer())  # like a pump that ignores the loop

    async def main() -> None:
        where.set("here")
        run = drain(lambda s: numbers(s).map(later), NUMBERS[:2], crash_after=1)
        assert (run.results, run.acked) == ([(0, "here"), (0, "here"), (1, "here")], NUMBERS[:2])
        with Bench(lambda s: numbers(s).timed_window("1s").filter(bool)) as bench:
            bench.push(*NUMBERS[:2])
            bench.step()
            await asyncio.sleep(0)
            bench.advance("1s")
            assert bench.results == [[0, 1]]
            bench.stop()
        with pytest.raises(PipelineError, match="does not come to rest"):
            drain(lambda s: s.sink(wait_for_ever), NUMBERS[:1])
        assert pumped(pump) == pumped(answer) == [{"n": 42}]

    asyncio.run(main())


COLUMNS: dict[str, Any] = {
    **{dtype: dtype for dtype in ("int64", "uint8", "float32", "float64", "bool", "str", "timedelta64[ns]")},
    **{dtype: dtype for dtype in ("datetime64[ms]", "datetime64[ns, UTC]", "datetime64[us, Europe/Berlin]")},
    "some": ("int64", st.integers(0, 9)),
    "missing": ("Int64", st.none() | st.integers(0, 9)),
    "kind": ("category", st.sampled_from("abc")),
}


@given(frames(COLUMNS, max_rows=3), frames({"code": "str", "now": "float64"}, index="code", min_rows=1))
def test_a_frame_has_the_columns_it_was_asked_for_and_comes_back_equal(
    frame: pd.DataFrame, quotes: pd.DataFrame
) -> None:
    assert dict(frame.dtypes) == {
        name: pd.api.types.pandas_dtype(column if isinstance(column, str) else column[0])
        for name, column in COLUMNS.items()
        if name != "kind"
    } | {"kind": frame["kind"].dtype}
    assert not frame.drop(columns="missing").isna().any(axis=None)
    assert frame["some"].isin(range(10)).all()
    assert (quotes.index.name, list(quotes.columns), len(quotes) > 0) == ("code", ["now"], True)
    for made in (frame, quotes):
        pd.testing.assert_frame_equal(codec.decode(codec.encode(made)), made)


@given(values())
def test_a_value_comes_back_equal(value: Any) -> None:
    assert codec.decode(codec.encode(value)) == value


@given(
    entries(
        st.fixed_dictionaries({"vitals": st.integers(), "totals": st.integers()}),
        topics=["one", "two"],
        every="1ms",
        max_size=30,
        n=st.integers(),
        text=st.text(max_size=3),
    )
)
def test_entries_are_of_the_kinds_and_topics_they_were_asked_for_and_their_ids_rise(pushed: list[Pushed]) -> None:
    kinds = [{"vitals", "totals"}, {"n"}, {"text"}, {"n", "text"}]
    assert all(set(entry) in kinds and entry.topic in {"one", "two"} for entry in pushed)
    assert [entry.time.microsecond // 1000 for entry in pushed] == list(range(len(pushed)))
    assert all(f"{dict(entry)!r}" in repr(entry) for entry in pushed), "what made a test fail is shown"


def test_strategies_without_choices_are_refused_with_the_argument_to_give() -> None:
    with pytest.raises(SettingsError, match=r"entries\(n=st.integers\(\)\)"):
        entries()
    with pytest.raises(SettingsError, match=r"column 'kind': expected what to draw 'category' from"):
        given(frames({"kind": "category"}))(lambda _: None)()


def test_a_predicate_on_fields_keeps_to_its_kind() -> None:
    run = drain(lambda s: s.filter(has("n")), [*NUMBERS, {"other": 1}])
    assert run.results == NUMBERS
    assert len(run.acked) == len(NUMBERS) + 1
