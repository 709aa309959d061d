"""Results that must be awaited or iterated: in order by some nodes, refused by the others.

streamz ignores an unawaited coroutine: a filter lets every element through, a sink is done at once, and the entry would
be acknowledged although no work was done. Therefore `map`, `starmap`, `filter` and `remove` await their function's
results, one element after the other. Nodes that need a result at once, such as a key, refuse an asynchronous function
when the pipeline starts; if only a result reveals it, the entry fails.
"""

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from typing import Any, Literal

from streamz import Stream, sinks
from streamz import core as nodes

from tasks.errors import PipelineError

__all__ = [
    "PLAIN",
    "InOrder",
    "Turns",
    "awaitables",
    "close_all",
    "expect_plain",
    "expects_results",
    "is_async",
    "is_plain",
    "negated",
    "refuse_kinds",
    "refuse_undone",
    "settled",
]

PLAIN: set[type] = {type(None), bool, int, float, str, bytes, tuple, list, dict}
"""Types met so far whose values need be neither awaited nor iterated; a lookup costs some 30 ns."""
_MAX_TYPES = 1_000  # some libraries make a type for each value

Kind = Literal["async", "async generator", "generator"]
_AWAIT_BEFORE = "await it in a `map` before this node and use the result here"
_NO_YIELD = "write it without `yield`, or put it into a `map` with `flatten` behind it"
# For each node type: the attribute that holds its function, the accepted kinds, and the remedy for other kinds.
_ACCEPTED: dict[type[Stream], tuple[str, frozenset[Kind], str]] = {
    nodes.accumulate: ("func", frozenset(), _AWAIT_BEFORE),
    nodes.unique: ("key", frozenset(), _AWAIT_BEFORE),
    nodes.partition: ("_key", frozenset(), _AWAIT_BEFORE),
    nodes.partition_unique: ("key", frozenset(), _AWAIT_BEFORE),
    nodes.timed_window_unique: ("key", frozenset(), _AWAIT_BEFORE),
    nodes.filter: ("predicate", frozenset({"async"}), _NO_YIELD),
    nodes.map_async: ("func", frozenset({"async"}), _NO_YIELD),
    sinks.sink: ("func", frozenset({"async"}), _NO_YIELD),
}
# The code of the lambda with which `remove` negates its predicate.
_NEGATIONS = {code for code in Stream.remove.__code__.co_consts if inspect.iscode(code)}


# For nodes of Sluice: the names of attributes that may hold functions.
_NEEDS: dict[type[Stream], tuple[str, ...]] = {}


def expects_results(node_type: type[Stream], *attributes: str) -> None:
    """Refuse async functions and generators as functions of a node type, which needs their results at once."""
    _NEEDS[node_type] = attributes


def is_plain(value: Any) -> bool:
    """Return whether a value is complete: neither an awaitable nor a generator."""
    kind = type(value)
    if kind in PLAIN:
        return True
    if inspect.isawaitable(value) or isinstance(value, AsyncGenerator | Generator):
        return False
    if len(PLAIN) < _MAX_TYPES:
        PLAIN.add(kind)
    return True


def expect_plain(value: Any, node: Stream, what: str) -> Any:
    """Return a function's result to a node that needs it at once, or refuse it.

    what      the function's role in messages, such as "the predicate"
    raises    PipelineError: the value must be awaited or iterated first; a coroutine is closed
    """
    if type(value) in PLAIN or is_plain(value):
        return value
    if isinstance(value, Coroutine | Generator):
        value.close()
    elif isinstance(value, asyncio.Future):
        value.cancel()
    msg = f"{node!r}: expected {what} to return its result, got a {type(value).__name__} that has done nothing yet; "
    raise PipelineError(msg + (_AWAIT_BEFORE if inspect.isawaitable(value) else _NO_YIELD))


def awaitables(result: Any) -> Iterator[Awaitable[Any]]:
    """Yield the awaitables in an update's result; zip_latest returns nested lists."""
    if result is None:
        return
    if isinstance(result, list):
        for one in result:
            yield from awaitables(one)
    elif hasattr(result, "__await__"):
        yield result


def close_all(coroutines: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Close coroutines; one that has not begun would otherwise warn that it was never awaited."""
    for one in coroutines:
        one.close()


async def settled(value: Any) -> Any:
    """Await a value until it is no longer awaitable, and return it."""
    while inspect.isawaitable(value):
        value = await value
    return value


def is_async(function: Any) -> bool:
    """Return whether a function is known to return an awaitable."""
    return _kind(function) == "async"


def negated(predicate: Any) -> Any:
    """Return the original predicate of a `Stream.remove`, or None if `predicate` is not streamz' negation."""
    if getattr(predicate, "__code__", None) not in _NEGATIONS:
        return None
    return inspect.getclosurevars(predicate).nonlocals["predicate"]


def refuse_undone(node: Stream) -> None:
    """Refuse a node whose function visibly returns work that the node would never do.

    raises    PipelineError: names the node and the remedy
    """
    for function, accepted, remedy in _functions(node):
        refuse_kinds(node, function, accepted, remedy)


def refuse_kinds(node: Stream, function: Any, accepted: frozenset[Kind], remedy: str) -> None:
    """Refuse a function of a kind that its node does not accept.

    accepted  the accepted kinds, in addition to plain functions
    raises    PipelineError: names the node and the remedy
    """
    kind = _kind(function)
    if kind is not None and kind not in accepted:
        name = getattr(function, "__name__", type(function).__name__)
        msg = (
            f"pipeline node {node!r}: expected functions whose work is done when they return, got the {kind} function "
            f"{name!r}, whose work would never be done here; {remedy}"
        )
        raise PipelineError(msg)


def _functions(node: Stream) -> Iterator[tuple[Any, frozenset[Kind], str]]:
    """Yield each function that a node calls, with the accepted kinds and the remedy for others."""
    if found := _ACCEPTED.get(type(node)):
        attribute, accepted, remedy = found
        function = getattr(node, attribute)
        yield negated(function) or function, accepted, remedy
    for attribute in _NEEDS.get(type(node), ()):
        yield getattr(node, attribute), frozenset(), _AWAIT_BEFORE
    function = getattr(node, "func", None)
    if isinstance(node, nodes.map | nodes.starmap):
        yield function, _accepted_behind(node), "put `flatten` behind it, which iterates its result"
    if str(getattr(function, "__module__", "")).startswith("streamz."):  # of a batch or a streaming dataframe
        for given in [*getattr(node, "args", ()), *getattr(node, "kwargs", {}).values()]:
            yield given, frozenset(), _AWAIT_BEFORE


def _accepted_behind(node: Stream) -> frozenset[Kind]:
    """Return the kinds of functions whose results the nodes behind a `map` can use."""
    following = list(node.downstreams)
    if not following:
        return frozenset({"async"})
    if all(isinstance(one, sinks.Sink) and not is_async(getattr(one, "func", None)) for one in following):
        return frozenset({"async", "generator"})
    return frozenset({"async", "generator", "async generator"})


def _kind(function: Any) -> Kind | None:
    """Return the kind of a function, also of one inside a partial or of a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    if callable(function) and not inspect.isroutine(function) and not inspect.isclass(function):
        function = type(function).__call__
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    if inspect.iscoroutinefunction(function) or flags & inspect.CO_ITERABLE_COROUTINE:
        return "async"
    if inspect.isasyncgenfunction(function):
        return "async generator"
    return "generator" if inspect.isgeneratorfunction(function) else None


class Turns:
    """Asynchronous work on a node's elements, done one by one in order of arrival.

    waiting    number of elements that wait for their turn or have it
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._lock = asyncio.Lock()

    def add(self, work: Callable[[], Awaitable[list[Any]]]) -> list[Awaitable[None]]:
        """Queue `work`, and return an awaitable for it and for the work that it returns.

        The caller must await it at once: coroutines take turns in the order in which they start.
        """
        self.waiting += 1
        return [self._take(work)]

    async def _take(self, work: Callable[[], Awaitable[list[Any]]]) -> None:
        try:
            async with self._lock:
                emitted = await work()
        finally:
            self.waiting -= 1
        # Outside the turn: in a cycle, this work may wait for elements that need a turn here themselves.
        for one in emitted:
            await one


class InOrder:
    """The `update` of a node that calls a function on each element and awaits awaitable results.

    No element overtakes another: while an earlier result is awaited, the function is not called.

    call    called with an element
    emit    called with the result, the element and its metadata; returns awaitables
    """

    def __init__(self, call: Callable[[Any], Any], emit: Callable[[Any, Any, Any], list[Any]]) -> None:
        self._call, self._emit = call, emit
        self._turns = Turns()

    def update(self, x: Any, who: Stream | None = None, metadata: Any = None) -> list[Any]:  # noqa: ARG002
        """Call the function with an element, and emit the result."""
        if self._turns.waiting:
            return self._turns.add(functools.partial(self._later, None, x, metadata))
        result = self._call(x)
        return self._emit(result, x, metadata) if type(result) in PLAIN else self.settle(result, x, metadata)

    def settle(self, result: Any, x: Any, metadata: Any) -> list[Any]:
        """Emit a result, after awaiting it if it is awaitable."""
        if is_plain(result) or not inspect.isawaitable(result):
            return self._emit(result, x, metadata)
        return self._turns.add(functools.partial(self._later, result, x, metadata))

    async def _later(self, result: Any, x: Any, metadata: Any) -> list[Any]:
        result = await settled(self._call(x) if result is None else result)
        return self._emit(result, x, metadata)
