"""Repairs of streamz 0.6.6's nodes that neither await nor iterate results: they now do both, in order.

Each repair replaces methods of one node in place, like those in `tasks.pipeline.repairs`; its docstring describes the fault.
"""

import itertools
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import aclosing
from functools import partial
from inspect import isawaitable
from typing import Any

from streamz import Stream, sinks
from streamz import core as nodes

from tasks.pipeline.awaiting import PLAIN, InOrder, Turns, expect_plain, is_async, is_plain, negated, settled
from tasks.pipeline.graphs import leads_to

__all__ = ["AWAITING", "Fail", "Repair"]

Fail = Callable[[Any, BaseException], None]
Repair = Callable[[Any, Fail], None]


def _flatten(node: nodes.flatten, fail: Fail) -> None:  # noqa: ARG001 - a repair's signature
    """Emit every item with the metadata, and iterate and await asynchronous items.

    fault    Only the last item carried the metadata: work on earlier items could fail, or be lost, after the acknowledgement.

    An asynchronous iterable yields its next item once all work on the previous one is done. Awaitable items are awaited.
    """
    turns = Turns()

    async def spread(items: Any, metadata: Any, emitted: list[Any]) -> list[Any]:
        leads_back = leads_to(
            node, node
        )  # in a cycle, an emitted item may wait for this turn: waiting for it would deadlock
        async with aclosing(_each(items)) as each:
            async for item in each:
                emitted += node._emit(item, metadata=metadata)
                while emitted and not leads_back:
                    await emitted.pop(0)
        return emitted

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> list[Any]:  # noqa: ARG001
        if turns.waiting or _is_async_iterable(x):
            return turns.add(partial(spread, x, metadata, []))
        emitted: list[Any] = []
        items = iter(x)
        for item in items:
            if type(item) not in PLAIN and isawaitable(item):
                # Await emitted work within the turn; otherwise the next element would take its turn first.
                return turns.add(partial(spread, itertools.chain([item], items), metadata, emitted))
            emitted += node._emit(item, metadata=metadata)
        return emitted

    node.update = update


def _is_async_iterable(x: Any) -> bool:
    return isinstance(x, AsyncIterable) and not isinstance(x, Iterable)


async def _each(items: Any) -> AsyncGenerator[Any, None]:
    """Yield items one by one; await those that are awaitable."""
    if _is_async_iterable(items):
        async for item in items:
            yield await settled(item)
    else:
        for item in items:
            yield await settled(item)


def _map(node: nodes.map, fail: Fail) -> None:  # noqa: ARG001
    """Await results, and log nothing.

    fault    It emitted unawaited coroutines, and logged each exception with its traceback: one bad topic would flood the log.
    """
    _in_order(node, lambda x: node.func(x, *node.args, **node.kwargs))


def _starmap(node: nodes.starmap, fail: Fail) -> None:  # noqa: ARG001
    """Repair `starmap` like `map`, and accept all iterables.

    fault    As in `map`; and it accepted tuples only.
    """
    _in_order(node, lambda x: node.func(*x, *node.args, **node.kwargs))


def _pluck(node: nodes.pluck, fail: Fail) -> None:  # noqa: ARG001
    """Await picked values.

    fault    As in `map`, if a picked value is awaitable.
    """

    def call(x: Any) -> Any:
        return tuple([x[one] for one in node.pick]) if isinstance(node.pick, list) else x[node.pick]

    _in_order(node, call)


def _in_order(node: Any, call: Callable[[Any], Any]) -> None:
    def emit(result: Any, x: Any, metadata: Any) -> list[Any]:  # noqa: ARG001
        return node._emit(result, metadata=metadata)

    steps = InOrder(call, emit)
    node.update, node.settle, node.awaits = steps.update, steps.settle, is_async(getattr(node, "func", None))


def _filter(node: nodes.filter, fail: Fail) -> None:  # noqa: ARG001
    """Await the predicate's result.

    fault    A predicate that returned a coroutine let every element through; negated by `remove`, it let none through.
    """
    if removed := negated(node.predicate):
        node.predicate = _not(removed)

    def call(x: Any) -> Any:
        return node.predicate(x, *node.args, **node.kwargs)

    def emit(verdict: Any, x: Any, metadata: Any) -> list[Any]:
        return node._emit(x, metadata=metadata) if expect_plain(verdict, node, "the predicate") else []

    steps = InOrder(call, emit)
    node.update, node.settle, node.awaits = steps.update, steps.settle, is_async(removed or node.predicate)


def _not(predicate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def later(verdict: Awaitable[Any]) -> bool:
        return not await settled(verdict)

    def negation(x: Any) -> Any:
        verdict = predicate(x)
        if type(verdict) in PLAIN or is_plain(verdict):
            return not verdict
        return later(verdict) if isawaitable(verdict) else verdict  # a generator, which the filter refuses

    negation.__name__ = "<lambda>"  # streamz' own name, which is part of the node's name
    return negation


def _sink(node: sinks.sink, fail: Fail) -> None:  # noqa: ARG001
    """Refuse generators, and await results.

    fault    A function that returned a generator counted as done, though the generator had not run.
    """

    async def later(result: Any) -> None:
        expect_plain(await settled(result), node, "the sink's function")

    def settle(result: Any, x: Any, metadata: Any) -> list[Any]:  # noqa: ARG001
        if isawaitable(result):
            return [later(result)]
        expect_plain(result, node, "the sink's function")
        return []

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> list[Any]:  # noqa: ARG001
        result = node.func(x, *node.args, **node.kwargs)
        return [] if type(result) in PLAIN else settle(result, x, metadata)

    node.update, node.settle = update, settle


AWAITING: dict[type[Stream], Repair] = {
    nodes.filter: _filter,
    nodes.flatten: _flatten,
    nodes.map: _map,
    nodes.pluck: _pluck,
    nodes.starmap: _starmap,
    sinks.sink: _sink,
}
