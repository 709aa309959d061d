"""`.to_sink`: batches with stable ids, each element's effect once, letters for exactly those that fail alone."""

import asyncio
import gc
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks import Delivery, PipelineError, RejectedError, RetryLater, SettingsError
from tasks.nodes.from_redis import from_redis
from tasks.testing import Bench
from tests.support.letters import replay_all
from tests.support.streams import here, pending, push_all
from tests.support.waiting import wait_until

RETRY = "1s, 5s"
ATTEMPTS = 3


class Table:
    """A sink that takes each id once. It refuses numbers as often as planned, in any batch, and fails as a whole now and then.

    refuses   how often it refuses each number, given alone
    outages   for each call, whether it fails as a whole
    """

    def __init__(self, refuses: dict[int, int] | None = None, outages: Sequence[str] = ()) -> None:
        self.left = Counter(refuses or {})
        self.outages = list(outages)
        self.rows: dict[str, Any] = {}
        self.calls: list[list[Any]] = []
        self.alone: Counter[int] = Counter()

    def write(self, batch: list[Delivery]) -> None:
        values = [one.value for one in batch]
        self.calls.append(values)
        outage = self.outages.pop(0) if self.outages else "none"
        if outage == "ask for time":
            raise RetryLater(3)
        for one in batch:
            if self.left[one.value] > 0:
                if len(batch) == 1:
                    self.left[one.value] -= 1
                    self.alone[one.value] += 1
                    assert self.alone[one.value] <= ATTEMPTS
                raise OSError(str(one.value))
            self.rows.setdefault(one.id, one.value)
        if outage == "lost":  # it has taken all, and the answer does not arrive
            if len(batch) == 1:
                self.alone[values[0]] += 1
            msg = "lost"
            raise TimeoutError(msg)


@given(
    st.dictionaries(st.integers(0, 11), st.integers(1, 6), max_size=4),
    st.lists(st.sampled_from(["none", "none", "ask for time"]), max_size=8),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=3),
    st.integers(1, 5),
    st.booleans(),
)
def test_effects_come_once_in_order_and_letters_are_those_that_fail_all_attempts(  # noqa: PLR0917 - given by name
    fresh_client: Callable[[], redis.Redis],
    refuses: dict[int, int],
    outages: list[str],
    crashes: list[tuple[int, int]],
    batch: int,
    keeps_state: bool,
) -> None:
    table = Table(refuses, outages)

    def build(source: Stream) -> None:
        numbers = source.pluck("n")
        if keeps_state:
            numbers = numbers.accumulate(lambda seen, n: [*seen, n], start=[]).map(lambda seen: seen[-1])
        numbers.to_sink(table, batch=batch, timeout="2s", retry=RETRY)

    with Bench(build, client=fresh_client(), options={"max_entries": 4, "max_deliveries": 1000}) as bench:
        bench.push(*({"n": n} for n in range(12)))
        for after, unacknowledged in crashes:
            bench.crash(after=after, unacknowledged=unacknowledged)
        bench.drain()
        bench.stop()
        failed = [letter.entry["n"] for letter in bench.dead]  # type: ignore[call-overload]
        assert bench.pending == bench.unread == []
        if keeps_state:
            assert list(bench.state.values()) == [list(range(12))]
    assert failed == [n for n in range(12) if refuses.get(n, 0) >= ATTEMPTS]
    assert list(table.rows.values()) == [n for n in range(12) if n not in failed]


def numbers(count: int) -> list[dict[str, int]]:
    return [{"n": n} for n in range(count)]


def test_one_bad_row_becomes_one_letter_and_the_rest_is_written() -> None:
    table = Table({5: 9})
    with Bench(lambda s: s.pluck("n").to_sink(table, batch=8, retry=RETRY)) as bench:
        bench.push(*numbers(8))
        bench.drain()
        [letter] = bench.entries("topic:dead:group")
    assert (letter["n"], letter["dead:attempts"]) == (5, ATTEMPTS)
    assert list(table.rows.values()) == [0, 1, 2, 3, 4, 6, 7]
    assert table.calls == [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [5], [5], [6, 7]]


def test_lost_answer_has_no_second_effect() -> None:
    table = Table(outages=["lost", "lost"])
    with Bench(lambda s: s.pluck("n").to_sink(table, batch=4, retry=RETRY)) as bench:
        bench.push(*numbers(4))
        bench.drain()
        assert bench.dead == []
    assert list(table.rows.values()) == [0, 1, 2, 3]


def test_partial_batch_is_written_after_the_timeout() -> None:
    table = Table()
    with Bench(lambda s: s.pluck("n").to_sink(table, batch=100, timeout="5s")) as bench:
        bench.push(*numbers(3))
        bench.advance("4s")
        assert table.calls == []
        bench.advance("2s")
        assert table.calls == [[0, 1, 2]]


def ids(build: Callable[[Stream, Any], Any], **options: Any) -> list[str]:
    table = Table()
    with Bench(lambda s: build(s, table), **options) as bench:
        bench.push(*numbers(3))
        bench.drain()
        return [
            id_.replace(entry.id, str(entry["n"]))
            for id_ in table.rows
            for entry in bench.entries("topic")
            if entry.id in id_
        ]


def test_ids_name_the_entries_and_are_the_same_in_a_replay() -> None:
    assert ids(lambda s, table: s.pluck("n").to_sink(table)) == ["topic/0", "topic/1", "topic/2"]
    assert ids(lambda s, table: s.pluck("n").to_sink(table, stream_name="b"), group="other")[0] == "topic/0@b"
    table = Table()
    with Bench(lambda s: s.pluck("n").sliding_window(2, return_partial=False).map(sum).to_sink(table)) as bench:
        bench.push(*numbers(3))
        bench.drain()
        first = list(table.rows)
        assert len(first) == 2
        assert all(len(id_.split("/")) == 3 for id_ in first)
        with Bench(
            lambda s: s.pluck("n").sliding_window(2, return_partial=False).map(sum).to_sink(table),
            group="replay",
            client=bench.client,
        ) as again:
            again.drain()
        assert (list(table.rows), len(table.calls)) == (first, 2)


def test_items_of_one_entry_have_ids_of_their_own() -> None:
    table = Table()
    with Bench(lambda s: s.map(lambda entry: [entry["n"]] * 2).flatten().to_sink(table)) as bench:
        bench.push(*numbers(2))
        bench.drain()
    assert [id_.partition("/")[2].partition("/")[2] for id_ in table.rows] == ["", "1", "", "1"]


def test_aggregation_without_entries_has_the_id_of_its_content() -> None:
    table = Table()
    with Bench(lambda s: s.time_window("1ms", close_after="1s").agg(n="count").map(tuple).to_sink(table)) as bench:
        bench.push(*numbers(2))
        bench.drain()
        bench.advance("5s")
    assert table.rows
    assert all(id_.startswith("content/") for id_ in table.rows)


def test_replayed_letter_has_the_id_of_its_entry(client: redis.Redis) -> None:
    table = Table({1: 1})
    build = lambda s: s.pluck("n").to_sink(table, batch=1)
    with Bench(build, client=client) as bench:
        bench.push(*numbers(3))
        bench.drain()
        bench.stop()
        [(_, outcome)] = replay_all(client)
        with Bench(build, client=client) as again:
            again.drain()
        assert outcome == "replayed"
        assert {id_.partition("/")[2] for id_ in table.rows} == {entry.id for entry in bench.entries("topic")}


def test_element_refused_before_a_crash_may_be_taken_behind_later_ones() -> None:
    taken: dict[str, int] = {}
    refused: list[int] = []

    def write(batch: list[Delivery]) -> None:
        for one in batch:
            if one.value == 1 and not refused:
                refused.append(1)
                msg = "not now"
                raise RejectedError(msg)
            taken.setdefault(one.id, one.value)

    with Bench(lambda s: s.pluck("n").to_sink(write, batch=1)) as bench:
        bench.push(*numbers(4))
        bench.crash(after=3, unacknowledged=3)
        assert (list(taken.values()), refused) == ([0, 2], [1])
        bench.drain()
        assert (bench.dead, bench.pending) == ([], [])
    assert list(taken.values()) == [0, 2, 1, 3]


def test_plain_writes_run_in_a_thread_and_async_ones_in_the_loop() -> None:
    threads: list[threading.Thread] = []

    def write(_: Any) -> None:
        threads.append(threading.current_thread())

    async def write_later(_: Any) -> None:
        threads.append(threading.current_thread())

    for sink in (write, write_later):
        with Bench(lambda s, sink=sink: s.to_sink(sink)) as bench:
            bench.push(*numbers(1))
            bench.drain()
    assert threads[0] is not threading.current_thread()
    assert threads[1] is threading.current_thread()


def test_stop_writes_what_is_held_and_closes_the_sink(client: redis.Redis) -> None:
    table = Table()
    closed: list[int] = []
    table.close = lambda: closed.append(len(table.rows))  # type: ignore[attr-defined]
    push_all(client, "topic", range(3))
    source = from_redis("topic", group="group", client=client)
    node = source.pluck("n").to_sink(table, timeout="1h")
    source.start()
    wait_until(lambda: len(node._held) == 3, "the elements to be held")
    source.stop()
    source.join(30)
    assert (list(table.rows.values()), pending(client), closed) == ([0, 1, 2], [], [3])


def is_through_or_in_a_pause(table: Table, source: from_redis) -> bool:
    return table.alone[1] == 1 and (bool(source.latest_run.retried) or len(table.rows) == 4)


def test_stop_in_a_pause_leaves_the_entry_and_later_ones_pending(client: redis.Redis) -> None:
    table = Table({1: 1})
    push_all(client, "topic", range(4))
    for _ in range(2):
        source = from_redis("topic", group="group", client=client, grace=60)
        source.pluck("n").to_sink(table, batch=2, timeout="10ms", retry="1h")
        source.start()
        wait_until(partial(is_through_or_in_a_pause, table, source), "a pause, or the end")
        source.stop()
        source.join(30)
    assert (list(table.rows.values()), pending(client)) == ([0, 1, 2, 3], [])


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"timeout": "0s"}, {"retry": "x"}, {"hold": True}, {"retry": None, "hold": True}]
)
def test_invalid_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Stream().to_sink(Table(), **options)


def test_object_without_write_is_refused() -> None:
    with pytest.raises(SettingsError, match="expected an object with a method write"):
        Stream().to_sink(5)


def test_pipeline_of_another_source_is_refused() -> None:
    source = Stream(asynchronous=True)
    source.to_sink(Table())
    with pytest.raises(PipelineError, match="expected a pipeline behind from_redis"):
        source.emit(1)


def test_rejected_row_is_not_tried_again() -> None:
    calls: list[int] = []

    def write(batch: list[Delivery]) -> None:
        calls.append(len(batch))
        if any(one.value == 1 for one in batch):
            msg = "never"
            raise RejectedError(msg)

    with Bench(lambda s: s.pluck("n").to_sink(write, batch=2, retry=RETRY)) as bench:
        bench.push(*numbers(2))
        bench.drain()
        assert (calls, len(bench.dead)) == ([2, 1, 1], 1)


def test_run_that_ends_before_a_write_begins_leaves_its_entry_pending_in_silence(client: redis.Redis) -> None:
    table = Table()

    async def live() -> None:
        push_all(client, "topic", [1])
        source = here(client)
        sink = source.pluck("n").to_sink(table.write)
        source.open()
        await source.step()
        sink.before_stop()
        source.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # as an ending loop does, here before the task's first step

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        asyncio.run(live())
        gc.collect()
    assert [str(one.message) for one in warned] == []
    assert table.calls == []
    assert len(pending(client)) == 1
