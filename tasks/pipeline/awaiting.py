"""Functions whose result must be awaited or iterated: which nodes do that, in which order, and which refuse them.

A coroutine that nothing awaits has done nothing, and streamz goes on as if it had: a filter lets everything through, a
sink is done at once, and the entry would be acknowledged. So `map`, `starmap`, `filter` and `remove` await what their
function returns, one element after the other. Nodes that need a result at once, such as a key, refuse the function when
the pipeline starts; where only a result shows it, the entry fails.
"""

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any, Literal

from streamz import Stream, sinks
from streamz import core as nodes

from tasks.errors import PipelineError

__all__ = [
    "PLAIN",
    "InOrder",
    "Turns",
    "expect_plain",
    "expects_results",
    "is_async",
    "is_plain",
    "negated",
    "refuse_undone",
    "settled",
]

PLAIN: set[type] = {type(None), bool, int, float, str, bytes, tuple, list, dict}
"""Types whose values need be neither awaited nor iterated, as far as they were met: a look here costs some 30 ns."""
_MOST_TYPES = 1_000  # some libraries make a type for each value

Kind = Literal["async", "async generator", "generator"]
_AWAIT_BEFORE = "await it in a `map` before this node and use the result here"
_NO_YIELD = "write it without `yield`, or put it into a `map` with `flatten` behind it"
# The functions that nodes call: the kinds that the node can do with, and what to do with others.
_TAKES: dict[type[Stream], tuple[str, frozenset[Kind], str]] = {
    nodes.accumulate: ("func", frozenset(), _AWAIT_BEFORE),
    nodes.unique: ("key", frozenset(), _AWAIT_BEFORE),
    nodes.partition: ("_key", frozenset(), _AWAIT_BEFORE),
    nodes.partition_unique: ("key", frozenset(), _AWAIT_BEFORE),
    nodes.timed_window_unique: ("key", frozenset(), _AWAIT_BEFORE),
    nodes.filter: ("predicate", frozenset({"async"}), _NO_YIELD),
    nodes.map_async: ("func", frozenset({"async"}), _NO_YIELD),
    sinks.sink: ("func", frozenset({"async"}), _NO_YIELD),
}
# The lambda by which `remove` negates its predicate.
_NEGATIONS = {code for code in Stream.remove.__code__.co_consts if inspect.iscode(code)}


# Nodes of ours: the names of attributes that may be functions.
_NEEDS: dict[type[Stream], tuple[str, ...]] = {}


def expects_results(node_type: type[Stream], *attributes: str) -> None:
    """Refuse async functions and generators as functions of a node type, which needs their results at once."""
    _NEEDS[node_type] = attributes


def is_plain(value: Any) -> bool:
    """Return whether a value need be neither awaited nor iterated for anything to be done."""
    kind = type(value)
    if kind in PLAIN:
        return True
    if inspect.isawaitable(value) or isinstance(value, AsyncGenerator | Generator):
        return False
    if len(PLAIN) < _MOST_TYPES:
        PLAIN.add(kind)
    return True


def expect_plain(value: Any, node: Stream, what: str) -> Any:
    """Return what a function has returned to a node that needs it at once.

    raises    PipelineError: it must be awaited or iterated first; a coroutine is closed
    """
    if type(value) in PLAIN or is_plain(value):
        return value
    if isinstance(value, Coroutine | Generator):
        value.close()
    elif isinstance(value, asyncio.Future):
        value.cancel()
    msg = f"{node!r}: expected {what} to return its result, got a {type(value).__name__} that has done nothing yet; "
    raise PipelineError(msg + (_AWAIT_BEFORE if inspect.isawaitable(value) else _NO_YIELD))


async def settled(value: Any) -> Any:
    """Return a value as it is, or what it comes to when it has been awaited."""
    while inspect.isawaitable(value):
        value = await value
    return value


def is_async(function: Any) -> bool:
    """Return whether a function is known to return what must be awaited."""
    return _kind(function) == "async"


def negated(predicate: Any) -> Any:
    """Return the predicate that `Stream.remove` was given, if `predicate` is what streamz made of it; else None."""
    if getattr(predicate, "__code__", None) not in _NEGATIONS:
        return None
    return inspect.getclosurevars(predicate).nonlocals["predicate"]


def refuse_undone(node: Stream) -> None:
    """Refuse a node that would leave undone what its function returns, as far as the function shows that.

    raises    PipelineError: it names the node, and what to do instead
    """
    for function, taken, cure in _functions(node):
        kind = _kind(function)
        if kind is not None and kind not in taken:
            name = getattr(function, "__name__", type(function).__name__)
            msg = (
                f"pipeline node {node!r}: expected functions whose work is done when they return, got the {kind} function "
                f"{name!r}, whose work would never be done here; {cure}"
            )
            raise PipelineError(msg)


def _functions(node: Stream) -> Iterator[tuple[Any, frozenset[Kind], str]]:
    """Yield the functions that a node calls, the kinds that it can do with, and what to do with others."""
    if found := _TAKES.get(type(node)):
        attribute, taken, cure = found
        function = getattr(node, attribute)
        yield negated(function) or function, taken, cure
    for attribute in _NEEDS.get(type(node), ()):
        yield getattr(node, attribute), frozenset(), _AWAIT_BEFORE
    function = getattr(node, "func", None)
    if isinstance(node, nodes.map | nodes.starmap):
        yield function, _taken_behind(node), "put `flatten` behind it, which iterates what it returns"
    if str(getattr(function, "__module__", "")).startswith("streamz."):  # of a batch or a streaming dataframe
        for given in [*getattr(node, "args", ()), *getattr(node, "kwargs", {}).values()]:
            yield given, frozenset(), _AWAIT_BEFORE


def _taken_behind(node: Stream) -> frozenset[Kind]:
    """Return the kinds of functions whose results are used behind a `map`."""
    following = list(node.downstreams)
    if not following:
        return frozenset({"async"})
    if all(isinstance(one, sinks.Sink) and not is_async(getattr(one, "func", None)) for one in following):
        return frozenset({"async", "generator"})
    return frozenset({"async", "generator", "async generator"})


def _kind(function: Any) -> Kind | None:
    """Return what kind of function this is, also if it is called by way of a partial or as an object."""
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
    """Asynchronous work on a node's elements, done one after the other in the order in which they came.

    waiting    how many elements are waiting for their turn, or have it
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._lock = asyncio.Lock()

    def add(self, work: Callable[[], Awaitable[list[Any]]]) -> list[Awaitable[None]]:
        """Return what must be awaited, now and not later: `work` in its turn, and then what it returns."""
        self.waiting += 1
        return [self._take(work)]

    async def _take(self, work: Callable[[], Awaitable[list[Any]]]) -> None:
        try:
            async with self._lock:
                emitted = await work()
        finally:
            self.waiting -= 1
        # Outside of the turn: where a graph leads back to the node, this is for elements that wait for theirs.
        for one in emitted:
            await one


class InOrder:
    """The `update` of a node that calls a function on each element and awaits the result, if it must be.

    No element overtakes another: behind one that is awaited the function is not called before that is done.

    call    called with an element
    emit    called with the result, the element and its metadata; returns what must be awaited
    """

    def __init__(self, call: Callable[[Any], Any], emit: Callable[[Any, Any, Any], list[Any]]) -> None:
        self._call, self._emit = call, emit
        self._turns = Turns()

    def update(self, x: Any, who: Stream | None = None, metadata: Any = None) -> list[Any]:  # noqa: ARG002
        """Call the function, and emit."""
        if self._turns.waiting:
            return self._turns.add(functools.partial(self._later, None, x, metadata))
        result = self._call(x)
        return self._emit(result, x, metadata) if type(result) in PLAIN else self.settle(result, x, metadata)

    def settle(self, result: Any, x: Any, metadata: Any) -> list[Any]:
        """Emit a result that may have to be awaited first."""
        if is_plain(result) or not inspect.isawaitable(result):
            return self._emit(result, x, metadata)
        return self._turns.add(functools.partial(self._later, result, x, metadata))

    async def _later(self, result: Any, x: Any, metadata: Any) -> list[Any]:
        result = await settled(self._call(x) if result is None else result)
        return self._emit(result, x, metadata)
