"""The limits of kept state that docs/guarantees.md names."""

from collections.abc import Collection
from typing import Any

import pytest
import redis
from streamz import Stream

from tasks import PipelineError
from tasks.group.dead_letters import DeadLetters
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


def fails_with_negative(s: Stream, mended: Collection[int] = ()) -> Stream:
    """Fail on pairs with a negative number that is not mended."""

    def check(pair: tuple[int, int]) -> tuple[int, int]:
        if min(pair) < 0 and min(pair) not in mended:
            msg = "bad"
            raise ValueError(msg)
        return pair

    return s.pluck("n").slice(0).sliding_window(2, return_partial=False).map(check)


def letters(client: Any) -> list[tuple[str | None, str]]:
    """Return the field 'n' and the id of each dead letter."""
    found = [fields for _, fields in client.xrange("topic:dead:group")]
    return [(fields.get(b"n", b"").decode() or None, fields[b"dead:id"].decode()) for fields in found]


def test_letter_of_an_entry_that_retention_dropped_from_a_window_has_no_fields(client: Any) -> None:
    with Bench(fails_with_negative, client=client) as bench:
        push(bench, 1)
        bench.drain()
        [(kept, _)] = client.xrange("topic")
        client.xtrim("topic", maxlen=0)  # as retention may: the entry is acknowledged
        push(bench, -1)
        bench.drain()
        assert letters(client) == [(None, kept.decode()), ("-1", client.xrevrange("topic")[0][0].decode())]


def test_letter_of_a_replayed_entry_that_fails_in_a_later_window_has_no_fields(client: redis.Redis) -> None:
    mended: set[int] = set()
    with Bench(fails_with_negative, client=client, mended=mended) as bench:
        push(bench, -1, 1)
        bench.drain()
        assert [n for n, _ in letters(client)] == ["-1", "1"]
        bench.stop()
        mended.add(-1)
        replayed = DeadLetters(client, "topic", "group")
        list(replayed.replay(replayed.choose(), into_windows=True))
        bench.drain()
        assert bench.results[-1] == (-1, 1)
        push(bench, -2)
        bench.drain()
        assert [n for n, _ in letters(client)] == [None, "-2"]


def test_timed_window_that_a_crash_interrupts_begins_its_time_anew(client: redis.Redis) -> None:
    def build(s: Stream) -> Stream:
        return s.pluck("n").slice(0).timed_window(10).filter(bool).map(sum)

    def results(*, crashes: bool) -> list[int]:
        client.flushall()
        with Bench(build, into="out", client=client) as bench:
            push(bench, 1)
            bench.advance(9)
            if crashes:
                bench.crash()
            bench.advance(2)
            push(bench, 2)
            bench.drain()
            return outs(client)

    assert results(crashes=False) == [1, 2]
    assert results(crashes=True) == [3]


def test_power_failure_takes_back_entries_results_and_state_of_the_same_moment(fresh_client: Any) -> None:
    client = fresh_client()
    with Bench(lambda s: s.pluck("n").accumulate(int.__add__, start=0), into="out", client=client) as bench:
        push(bench, 1, 2)
        bench.drain()
        saved = [(key, client.pttl(key), client.dump(key)) for key in client.keys("*") if b"lease" not in key]
        push(bench, 4)
        bench.drain()
        bench.crash()
        client.flushall()  # and the server comes back with what it had synced
        for key, ttl, data in saved:
            client.restore(key, max(ttl, 0), data)
        push(bench, 8)
        bench.drain()
        assert outs(client) == [1, 3, 11]
