"""State survives: what nodes remember is stored with the acknowledgements of the entries that it was made of."""

import operator
from typing import Any

import pytest
import redis
from streamz import Stream

from tasks import PipelineError, StateConflictError
from tasks.reservoir.keys import state_key
from tasks.testing import Bench


def total(s: Stream) -> Stream:
    return s.pluck("n").accumulate(operator.add, start=0)


def results(client: Any) -> list[int]:
    return [int(fields[b"out"]) for _, fields in client.xrange("out")]


def push(bench: Bench, *numbers: int) -> None:
    bench.push(*({"n": n} for n in numbers))


def test_a_sum_continues_after_a_stop_and_after_a_crash(client: redis.Redis) -> None:
    with Bench(total, into="out", client=client) as bench:
        push(bench, 1, 2)
        bench.drain()
        bench.stop()
        push(bench, 3, 4)
        bench.crash(after=2)
        push(bench, 5)
        bench.drain()
        assert results(client) == [1, 3, 6, 10, 15]
        assert bench.pending == []


def test_a_group_that_was_deleted_begins_with_an_empty_state(client: redis.Redis) -> None:
    with Bench(total, into="out", client=client) as bench:
        push(bench, 1, 2)
        bench.drain()
        bench.stop()
        client.xgroup_destroy("topic", "group")
        bench.drain()
        assert results(client) == [1, 3, 1, 3]


def test_a_state_that_went_back_ends_the_run_before_anything_is_acknowledged(client: redis.Redis) -> None:
    with Bench(total, into="out", client=client) as bench:
        push(bench, 1)
        bench.drain()
        client.hset(state_key("group"), "version", "0")
        push(bench, 2)
        with pytest.raises(StateConflictError, match="went back|gone back"):
            bench.drain()
        assert results(client) == [1]
        assert len(bench.pending) == 1


def test_a_state_that_cannot_be_stored_is_refused_before_any_acknowledgement(client: redis.Redis) -> None:
    def build(s: Stream) -> Stream:
        return s.pluck("n").accumulate(lambda _, n: lambda: n, start=None, stream_name="closures")

    with Bench(build, client=client) as bench:
        push(bench, 1)
        with pytest.raises(PipelineError, match="node 'closures': expected a state that can be stored"):
            bench.drain()
        assert len(bench.pending) == 1


def test_a_node_of_another_kind_does_not_get_the_state(client: redis.Redis) -> None:
    def other(s: Stream) -> Stream:
        return s.pluck("n").slice(1, stream_name="kept")

    with Bench(lambda s: s.pluck("n").accumulate(operator.add, stream_name="kept"), client=client) as bench:
        push(bench, 1)
        bench.drain()
        bench.stop()
    with Bench(other, client=client) as bench:
        push(bench, 2)
        with pytest.raises(
            PipelineError, match="node 'kept' of group 'group': expected the node whose state was stored"
        ):
            bench.drain()


def test_keep_state_false_begins_anew(client: redis.Redis) -> None:
    with Bench(total, into="out", client=client, options={"keep_state": False}) as bench:
        push(bench, 1, 2)
        bench.drain()
        bench.stop()
        push(bench, 3)
        bench.drain()
        assert results(client) == [1, 3, 3]
        assert not client.exists(state_key("group"))
