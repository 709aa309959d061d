"""The limits of kept state that docs/guarantees.md names."""

from typing import Any

import pytest
import redis
from streamz import Stream

from tasks import PipelineError
from tasks.testing import Bench


def outs(client: Any) -> list[int]:
    return [int(fields[b"out"]) for _, fields in client.xrange("out")]


def push(bench: Bench, *numbers: int) -> None:
    bench.push(*({"n": n} for n in numbers))


def test_sink_sees_an_element_again_after_a_crash_and_the_result_topic_does_not(client: redis.Redis) -> None:
    with Bench(lambda s: s.pluck("n").accumulate(int.__add__, start=0), into="out", client=client) as bench:
        push(bench, 1, 2, 3)
        bench.crash(after=2)
        bench.drain()
        assert bench.results == [1, 3, 3, 6]
        assert outs(client) == [1, 3, 6]


def test_element_changed_in_a_window_is_restored_as_it_came(client: redis.Redis) -> None:
    def build(s: Stream) -> Stream:
        def age(window: tuple[list[int], ...]) -> int:
            window[0].append(0)
            return len(window[0])

        return s.pluck("n").slice(0).map(lambda n: [n]).sliding_window(3).map(age)

    with Bench(build, into="out", client=client) as bench:
        push(bench, 1)
        bench.drain()
        push(bench, 2)
        bench.drain()
        bench.stop()
        push(bench, 3)
        bench.drain()
        assert outs(client) == [2, 3, 3]  # 4 without the restart: the second change came after the element was stored


def test_state_changed_in_place_before_an_error_keeps_the_change(client: redis.Redis) -> None:
    def build(s: Stream) -> Stream:
        def collect(seen: list[int], n: int) -> tuple[list[int], int]:
            seen.append(n)
            return seen, sum(seen) // (n != 2)

        return s.pluck("n").accumulate(collect, start=[], returns_state=True)

    with Bench(build, into="out", client=client) as bench:
        push(bench, 1, 2, 3)
        bench.drain()
        assert outs(client) == [1, 6]
        assert [letter.entry for letter in bench.dead] == [{"n": 2}]


def test_state_beyond_max_state_ends_the_run_before_anything_is_acknowledged(client: redis.Redis) -> None:
    def build(s: Stream) -> Stream:
        return s.pluck("n").accumulate(lambda seen, n: [*seen, n], start=[], stream_name="all").map(len)

    with Bench(build, into="out", client=client, options={"max_state": 6}) as bench:
        push(bench, 1, 2)
        bench.drain()
        push(bench, 3, 4, 5)
        with pytest.raises(
            PipelineError, match=r"at most 6 bytes, got 7, most of them in node 'all' \(7\); nothing was"
        ):
            bench.drain()
        assert bench.state == {"all": [1, 2]}
        assert bench.pending == [{"n": 3}, {"n": 4}, {"n": 5}]
        bench.crash()
    with Bench(build, into="out", client=client) as bench:
        bench.drain()
        assert outs(client) == [1, 2, 3, 4, 5]


def test_entry_that_fails_again_after_a_restart_becomes_one_dead_letter(client: redis.Redis) -> None:
    def build(s: Stream) -> Stream:
        numbers = s.pluck("n")
        numbers.sliding_window(2).map(lambda window: 1 // (window != (1, 2))).sink(id)
        return numbers.sliding_window(2, key=lambda n: n % 2).map(lambda window: 1 // (window != (1, 3)))

    with Bench(build, client=client) as bench:
        push(bench, 1)
        bench.drain()
        push(bench, 2)  # fails with 1, whose window by key does not change
        bench.drain()
        bench.stop()
        push(bench, 3)  # fails with 1 again
        bench.drain()
        assert [letter.entry for letter in bench.dead] == [{"n": 1}, {"n": 2}, {"n": 3}]
        assert client.xlen("topic:dead:group") == 3
