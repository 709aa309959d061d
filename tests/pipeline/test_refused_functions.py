"""Functions that return coroutines or generators: refused at the start, or a failed entry, with a remedy in the message."""

import functools
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from streamz import Stream

from tasks import PipelineError
from tasks.testing import drain
from tests.support.nodes import without_result

Apply = Callable[[Any], Any]


async def coroutine(*_: Any, **__: Any) -> int:
    return 1


async def async_generator(*_: Any, **__: Any) -> AsyncIterator[int]:
    yield 1


def generator(*_: Any, **__: Any) -> Iterator[int]:
    yield 1


class Called:
    """A callable object."""

    async def __call__(self, *_: Any) -> int:
        return 1


AT_ONCE: dict[str, Callable[[Stream, Apply], Stream]] = {
    "accumulate": lambda s, f: s.accumulate(f, start=0),
    "scan": lambda s, f: s.scan(f, start=0),
    "unique": lambda s, f: s.unique(key=f),
    "partition": lambda s, f: s.partition(1, key=f),
    "partition_unique": lambda s, f: s.partition_unique(1, key=f),
    "timed_window_unique": lambda s, f: s.timed_window_unique(0.01, key=f),
}
NOT_ITERATED: dict[str, Callable[[Stream, Apply], Stream]] = {
    **AT_ONCE,
    "sink": lambda s, f: s.sink(f),
    "filter": lambda s, f: s.filter(f),
    "remove": lambda s, f: s.remove(f),
    "map_async": lambda s, f: s.map_async(f),
    "map at the end": lambda s, f: s.map(f),
}


def refused(build: Callable[[Stream], Any], match: str) -> None:
    with pytest.raises(PipelineError, match=match):
        drain(lambda s: without_result(s, build), [{"n": 1}])


@pytest.mark.parametrize(
    "function", [coroutine, functools.partial(coroutine, 1), Called()], ids=lambda f: type(f).__name__
)
@pytest.mark.parametrize("node", AT_ONCE)
def test_node_that_needs_its_result_at_once_refuses_an_async_function_at_start(node: str, function: Any) -> None:
    refused(lambda s: AT_ONCE[node](s, function), "async function .* await it in a `map` before this node")


@pytest.mark.parametrize("function", [generator, async_generator, functools.partial(generator, 1)])
@pytest.mark.parametrize("node", NOT_ITERATED, ids=lambda name: name.replace(" ", "_"))
def test_node_that_does_not_iterate_refuses_a_generator_function_at_start(node: str, function: Any) -> None:
    refused(lambda s: NOT_ITERATED[node](s, function), "generator function .* whose work would never be done")


def test_async_generator_function_in_front_of_plain_sinks_only_is_refused() -> None:
    refused(lambda s: s.map(async_generator).sink(print), "async generator function .* put `flatten` behind it")
    assert drain(lambda s: s.map(async_generator).flatten(), [{"n": 1}]).results == [1]
    assert drain(lambda s: s.map(generator).map(list), [{"n": 1}]).results == [[1]]


@pytest.mark.parametrize("method", ["map", "filter"])
def test_async_function_of_a_batch_is_refused_at_start(method: str) -> None:
    refused(lambda s: getattr(s.to_batch(example=[]), method)(coroutine).to_stream(), "async function 'coroutine'")


LATE: dict[str, Callable[[Stream, Apply], Stream]] = {
    **NOT_ITERATED,
    "fused sink": lambda s, f: s.map(lambda e: e).sink(f),
    "fused filter": lambda s, f: s.map(lambda e: e).filter(f).map(lambda e: e),
}


FAILING = [
    (node, returned)
    for node in LATE
    for returned in (coroutine, generator, async_generator)
    if node != "map at the end" and (returned is not coroutine or node in AT_ONCE)
]


@pytest.mark.parametrize(("node", "returned"), FAILING)
def test_unusable_result_fails_its_entry_and_leaves_no_coroutine_behind(node: str, returned: Any) -> None:
    run = drain(lambda s: without_result(s, lambda s: LATE[node](s, lambda *_: returned())), [{"n": 1}])
    [letter] = run.dead
    expected = (
        "await it in a `map`" if returned is coroutine else "use map" if node == "map_async" else "without `yield`"
    )
    assert letter.exception.startswith("PipelineError")
    assert expected in letter.exception
    assert run.results == []
    gc.collect()  # warns of a coroutine that was never awaited, and pytest turns warnings into errors


@pytest.mark.parametrize("state", ["both", "result"])
def test_accumulator_that_returns_a_coroutine_keeps_its_state(state: str) -> None:
    def add(total: int, n: int) -> Any:
        if n == 2:
            return coroutine() if state == "both" else (coroutine(), n)
        return total + n, total + n

    pushed = [{"n": n} for n in (1, 2, 3)]
    run = drain(lambda s: s.pluck("n").accumulate(add, start=0, returns_state=True), pushed)
    assert run.results == [1, 4]
    assert [letter.entry for letter in run.dead] == [{"n": 2}]
