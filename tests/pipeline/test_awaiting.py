"""Awaitable results: awaited in order before the entry is acknowledged."""

import asyncio
import functools
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks.testing import Pushed, drain, entries
from tests.support.nodes import feed, without_result
from tests.support.streams import dead, here, pending, push_all

Fresh = Callable[[], redis.Redis]
Apply = Callable[[Any], Any]


async def double(n: int) -> int:
    # Later numbers finish first.
    await asyncio.sleep(0.002 * (7 - n))
    return 2 * n


class Doubler:
    """A callable object that returns a coroutine."""

    async def __call__(self, n: int) -> int:
        return await double(n)

    async def method(self, n: int) -> int:
        return await double(n)


@types.coroutine
def double_in_old_style(n: int) -> Iterator[Any]:
    yield from asyncio.sleep(0).__await__()
    return 2 * n


async def twice(n: int) -> Any:
    """Return a coroutine from a coroutine."""
    await asyncio.sleep(0)
    return double(n)


AWAITED: dict[str, Callable[[Any], Any]] = {
    "function": double,
    "partial": functools.partial(double),
    "object": Doubler(),
    "partial object": functools.partial(Doubler()),
    "method": Doubler().method,
    "lambda": lambda n: double(n + 0),
    "task": lambda n: asyncio.ensure_future(double(n)),
    "generator-based": double_in_old_style,
    "coroutine of a coroutine": twice,
    "some elements": lambda n: double(n) if n % 2 else 2 * n,
}


# Nodes that await, and their results for 0 to 6 if the function doubles.
AWAITING: dict[str, tuple[Callable[[Stream, Apply], Stream], list[int]]] = {
    "map": (lambda s, f: s.map(f).map(lambda n: n), [*range(0, 14, 2)]),
    "starmap": (lambda s, f: s.map(lambda n: (n,)).starmap(f), [*range(0, 14, 2)]),
    "filter": (lambda s, f: s.filter(f), [1, 2, 3, 4, 5, 6]),
    "remove": (lambda s, f: s.remove(f), [0]),
    "pluck": (lambda s, f: s.map(lambda n: {"double": f(n)}).pluck("double"), [*range(0, 14, 2)]),
    "flatten": (lambda s, f: s.map(lambda n: [f(n)]).flatten(), [*range(0, 14, 2)]),
    "map_async": (
        lambda s, f: s.map(lambda n: n).map_async(lambda n: into_the_loop(f(n)), parallelism=3),
        [*range(0, 14, 2)],
    ),
}


async def into_the_loop(result: Any) -> Any:
    """Return a result that may be awaitable, as an async function may."""
    return result


@pytest.mark.parametrize("node", AWAITING)
@pytest.mark.parametrize("name", AWAITED, ids=lambda name: name.replace(" ", "_"))
def test_awaitables_of_every_kind_are_awaited_and_results_keep_their_order(name: str, node: str) -> None:
    build, expected = AWAITING[node]
    pushed = [{"n": n} for n in range(7)]
    run = drain(lambda s: build(s.pluck("n"), AWAITED[name]), pushed)
    assert (run.results, run.acked, run.dead) == (expected, pushed, [])


# Stages of a chain: for a pipeline, and as a model on lists.
async def _slowly(n: int, result: Any) -> Any:
    await asyncio.sleep(n * 7 % 5 * 0.01)
    return result


async def _items(n: int) -> AsyncIterator[int]:
    for m in (n, n + 1):
        await asyncio.sleep(n * 3 % 4 * 0.01)
        yield m


def _fail_on(bad: int, n: int) -> int:
    if n % 11 == bad:
        msg = f"{n}"
        raise ValueError(msg)
    return n


async def _fail_later(bad: int, n: int) -> int:
    return _fail_on(bad, await _slowly(n, n))


Stage = tuple[str, int]
STAGES: dict[str, Callable[[Stream, int], Stream]] = {
    "map": lambda s, _: s.map(lambda n: n + 1),
    "async map": lambda s, _: s.map(lambda n: _slowly(n, n + 1)),
    "async function": lambda s, bad: s.map(functools.partial(_fail_later, bad)),
    "now and then": lambda s, _: s.map(lambda n: _slowly(n, n + 1) if n % 3 else n + 1),
    "starmap": lambda s, _: s.map(lambda n: (n, 1)).starmap(lambda n, one: _slowly(n, n + one)),
    "filter": lambda s, _: s.filter(lambda n: _slowly(n, n % 3)),
    "remove": lambda s, _: s.remove(lambda n: _slowly(n, n % 3 == 0)),
    "flatten": lambda s, _: s.map(lambda n: [n, n + 1]).flatten(),
    "async flatten": lambda s, _: s.map(_items).flatten(),
    "flatten awaitables": lambda s, _: s.map(lambda n: [n, _slowly(n, n + 1)]).flatten(),
    "fail": lambda s, bad: s.map(functools.partial(_fail_on, bad)),
    "fail later": lambda s, bad: s.map(lambda n: _fail_later(bad, n)),
    "buffer": lambda s, _: s.buffer(2),
    "map_async": lambda s, _: s.map_async(lambda n: _slowly(n, n), parallelism=2),
}
_MODEL: dict[str, Callable[[int, int], list[int]]] = {
    **dict.fromkeys(["map", "async map", "now and then", "starmap"], lambda n, _: [n + 1]),
    **dict.fromkeys(["async function", "fail", "fail later"], lambda n, bad: [_fail_on(bad, n)]),
    **dict.fromkeys(["filter", "remove"], lambda n, _: [n] if n % 3 else []),
    **dict.fromkeys(["flatten", "async flatten", "flatten awaitables"], lambda n, _: [n, n + 1]),
    **dict.fromkeys(["buffer", "map_async"], lambda n, _: [n]),
}


def by_the_model(number: int, stages: list[Stage]) -> tuple[list[int], bool]:
    """Return the results of one number, in order, and whether one of its elements fails."""
    elements, fails = [number], False
    for stage, bad in stages:
        emitted: list[int] = []
        for n in elements:
            try:
                emitted += _MODEL[stage](n, bad)
            except ValueError:
                fails = True
        elements = emitted
    return elements, fails


@given(
    pushed=entries(n=st.integers(0, 40), max_size=8),
    stages=st.lists(st.tuples(st.sampled_from(sorted(STAGES)), st.integers(0, 10)), max_size=5),
    fuse=st.booleans(),
)
def test_awaited_nodes_emit_the_same_results_in_the_same_order_as_plain_nodes(
    fresh_client: Fresh, pushed: list[Pushed], stages: list[Stage], fuse: bool
) -> None:
    """Which results are awaitable, and how long they take, makes no difference."""

    def build(source: Stream) -> Stream:
        stream = source.pluck("n")
        for stage, bad in stages:
            stream = STAGES[stage](stream, bad)
        return stream

    run = drain(build, pushed, client=fresh_client(), options={"fuse": fuse})
    outcomes = [by_the_model(entry["n"], stages) for entry in pushed]
    assert run.results == [n for elements, _ in outcomes for n in elements]
    assert [letter.entry for letter in run.dead] == [e for e, (_, fails) in zip(pushed, outcomes, strict=True) if fails]
    assert run.acked == [e for e, (_, fails) in zip(pushed, outcomes, strict=True) if not fails]


@pytest.mark.parametrize("node", ["map", "starmap", "filter", "remove"])
def test_entry_of_an_awaited_node_stays_pending_and_the_source_waits(client: redis.Redis, node: str) -> None:
    at_work: list[int] = []
    most: list[int] = []
    acknowledged_early: list[int] = []
    ids: list[str] = []

    async def work(n: int) -> bool:
        at_work.append(n)
        most.append(len(at_work))
        await asyncio.sleep(0.001)
        if ids[n] not in pending(client):
            acknowledged_early.append(n)
        at_work.remove(n)
        return node != "remove"

    def build(source: Stream) -> Stream:
        ids.extend(id_.decode() for id_, _ in client.xrange("topic"))
        elements = source.map(lambda n: (n,)) if node == "starmap" else source
        return getattr(elements, node)(work)

    feed(client, build, until=lambda: not pending(client))
    assert most == [1] * 7
    assert acknowledged_early == []
    assert dead(client) == []


def test_flattened_list_does_not_overtake_an_awaited_list() -> None:
    def lists(n: int) -> list[list[Any]]:
        return [[n, _slowly(0, n + 1), n + 2], [_slowly(0, n + 3), n + 4]]

    run = drain(lambda s: s.pluck("n").map(lists).flatten().flatten().map(lambda n: _slowly(2, n)), [{"n": 0}])
    assert run.results == [0, 1, 2, 3, 4]


def test_plain_element_does_not_overtake_an_awaited_element() -> None:
    seen: list[int] = []

    async def slowly(n: int) -> int:
        await asyncio.sleep(1)
        return n

    def build(source: Stream) -> Stream:
        return source.pluck("l").flatten().map(lambda n: slowly(n) if n == 0 else n).filter(lambda n: n >= 0)

    run = drain(lambda s: build(s).map(lambda n: (seen.append(n), n)[1]), [{"l": [0, 1, 2]}, {"l": [3, 0, 4]}])
    assert run.results == seen == [0, 1, 2, 3, 0, 4]


def test_async_iterable_yields_the_next_item_when_the_last_one_is_done() -> None:
    seen: list[Any] = []

    async def ask(n: int) -> AsyncIterator[int]:
        for m in range(3):
            seen.append(("asked", n, m))
            yield 10 * n + m

    async def take(n: int) -> None:
        await asyncio.sleep(1)
        seen.append(("done", *divmod(n, 10)))

    pushed = [{"n": 1}, {"n": 2}]
    run = drain(lambda s: without_result(s, lambda s: s.pluck("n").map(ask).flatten().sink(take)), pushed)
    assert seen == [(what, n, m) for n in (1, 2) for m in range(3) for what in ("asked", "done")]
    assert run.acked == pushed


def test_async_iterable_that_raises_fails_its_entry_after_its_earlier_items() -> None:
    closed: list[int] = []

    async def items(n: int) -> AsyncIterator[int]:
        try:
            yield n
            if n == 1:
                msg = "one"
                raise ValueError(msg)
            yield n
        finally:
            closed.append(n)

    pushed = [{"n": n} for n in range(3)]
    run = drain(lambda s: s.pluck("n").map(items).flatten(), pushed)
    assert run.results == [0, 0, 1, 2, 2]
    assert [letter.entry for letter in run.dead] == pushed[1:2]
    assert closed == [0, 1, 2]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_pipeline_with_a_cycle_through_an_awaited_node_comes_to_rest(asynchronous: bool) -> None:
    """A crawler has such a cycle: pages link to pages."""
    visited: list[int] = []

    async def visit(n: int) -> int:
        await asyncio.sleep(1)
        visited.append(n)
        return n

    async def links(n: int) -> AsyncIterator[int]:
        for m in (2 * n, 2 * n + 1):
            yield m

    def build(source: Stream) -> None:
        new = source.pluck("n").union()
        found = new.map(visit).filter(lambda n: n < 8)
        behind = found.map(links if asynchronous else lambda n: [2 * n, 2 * n + 1]).flatten()
        behind.connect(new)
        source.kept = behind

    run = drain(build, [{"n": 1}])
    assert sorted(visited) == list(range(1, 16))
    assert run.acked == [{"n": 1}]


def test_entry_of_an_awaited_map_stays_pending_when_the_loop_closes(fake_redis: redis.Redis) -> None:
    ids = push_all(fake_redis, "topic", [1])

    async def main() -> None:
        source = here(fake_redis)
        kept = source.buffer(1).map(lambda _: asyncio.get_running_loop().create_future())
        source.open()
        await source.step()
        await asyncio.sleep(0)
        source.close()
        del kept

    asyncio.run(main())
    assert (dead(fake_redis), pending(fake_redis)) == ([], ids)
