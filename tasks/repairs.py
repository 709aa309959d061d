"""streamz 0.6.6's nodes that no wrapping can mend, mended one by one.

Each repair replaces the methods of one node in place and says what they did wrong. It may go when streamz has done
the same. tests/test_nodes.py has for each a test that fails without it.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from functools import partial
from inspect import isawaitable
from typing import Any

from streamz import Stream, sinks
from streamz import core as nodes
from tornado import gen

from tasks.awaiting import PLAIN, InOrder, Turns, expect_plain, is_async, is_plain, negated, settled
from tasks.errors import PipelineError
from tasks.graphs import leads_to
from tasks.stops import ends_run

__all__ = ["REPAIRS"]

Fail = Callable[[Any, BaseException], None]
Repair = Callable[[Any, Fail], None]


def _flatten(node: nodes.flatten, fail: Fail) -> None:  # noqa: ARG001 - a repair's signature
    """Only the last item carried the metadata: the others' work could fail, or be lost, with the entry done.

    What is iterated asynchronously is asked for its next item when all is done with the last one. Items that can be
    awaited are.
    """
    turns = Turns()

    async def spread(items: Any, metadata: Any, emitted: list[Any]) -> list[Any]:
        leads_back = leads_to(node, node)  # an item may wait here for its turn then, and cannot be waited for
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
                # What was emitted is awaited in the turn: awaited before it, the next element would take its turn first.
                return turns.add(partial(spread, itertools.chain([item], items), metadata, emitted))
            emitted += node._emit(item, metadata=metadata)
        return emitted

    node.update = update


def _is_async_iterable(x: Any) -> bool:
    return isinstance(x, AsyncIterable) and not isinstance(x, Iterable)


async def _each(items: Any) -> AsyncGenerator[Any, None]:
    """Yield items one by one, those that can be awaited once they have been."""
    if _is_async_iterable(items):
        async for item in items:
            yield await settled(item)
    else:
        for item in items:
            yield await settled(item)


def _slice(node: nodes.slice, fail: Fail) -> None:  # noqa: ARG001
    """It called `emit`, which waits for the loop that it runs in; and an end at once left it connected."""

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> list[Any]:  # noqa: ARG001
        wanted = node.state >= node.star and (node.state - node.star) % node.step == 0
        if node.end is not None and node.state >= node.end:
            return []
        node.state += 1
        return node._emit(x, metadata=metadata) if wanted else []

    node.update = update


def _keep_unique(node: Any, x: Any, metadata: Any) -> None:
    """Put an element into a node's buffer of unique ones, and let go of the one that it does without."""
    key = expect_plain(node._get_key(x), node, "the key function")
    if node.keep == "last":
        if key in node._buffer:
            del node._buffer[key]
            node._release_refs(node._metadata_buffer.pop(key))
    elif key in node._buffer:
        return
    node._retain_refs(metadata)
    node._buffer[key], node._metadata_buffer[key] = x, metadata


def _take_all(node: Any) -> tuple[tuple[Any, ...], list[Any]]:
    elements = tuple(node._buffer.values())
    metadata = [m for several in node._metadata_buffer.values() for m in several]
    node._buffer, node._metadata_buffer = {}, {}
    return elements, metadata


def _partition_unique(node: nodes.partition_unique, fail: Fail) -> None:  # noqa: ARG001
    """It never let go of the elements it dropped, and handed on a list of lists for metadata."""

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> list[Any]:  # noqa: ARG001
        _keep_unique(node, x, metadata)
        if len(node._buffer) < node.n:
            return []
        elements, members = _take_all(node)
        waiting = node._emit(elements, members)
        node._release_refs(members)
        return waiting

    node.update = update


def _timed_window_unique(node: nodes.timed_window_unique, fail: Fail) -> None:  # noqa: ARG001
    """As partition_unique. Its loop, which is kept, takes what the buffers hold at the end of each interval."""

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> Any:  # noqa: ARG001
        _keep_unique(node, x, metadata)
        return node.last

    node.update = update


def _partition(node: nodes.partition, fail: Fail) -> None:  # noqa: ARG001
    """It took hold of the element before it asked for its key, and for ever if that raised; a coroutine passed for a key."""
    update = node.update

    def keyed(x: Any, who: Stream | None = None, metadata: Any = None) -> Any:
        key = expect_plain(type(node)._get_key(node, x), node, "the key function")
        node._get_key = lambda _: key
        return update(x, who=who, metadata=metadata)

    node.update = keyed


def _one_by_one(queue: deque[tuple[Any, Any]], do: Callable[[Any, Any], Awaitable[None]]) -> Callable[[], None]:
    """Return what sees to it that `do` is called with all that is put into a queue, each time when the last is done."""
    working: list[asyncio.Task[None]] = []

    async def work() -> None:
        try:
            while queue:
                await do(*queue.popleft())
        finally:
            working.clear()

    def begin() -> None:
        if not working:
            working.append(asyncio.ensure_future(work()))

    return begin


async def _emit_held(node: Any, x: Any, metadata: Any) -> None:
    """Emit an element that was held, and let go of it once what follows is done with it."""
    for one in node._emit(x, metadata=metadata):
        await one
    node._release_refs(metadata)


def _latest(node: nodes.latest, fail: Fail) -> None:  # noqa: ARG001
    """It missed an element that came while it was busy, if none came after; and held on to one already done with.

    An element that a later one supersedes is done with: it is let go of, unseen.
    """
    newest: deque[tuple[Any, Any]] = deque(maxlen=1)
    begin = _one_by_one(newest, partial(_emit_held, node))

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> list[Any]:  # noqa: ARG001
        node._retain_refs(metadata or [])
        if newest:
            node._release_refs(newest.pop()[1])
        newest.append((x, metadata or []))
        begin()
        return []

    node.update = update


def _clock(node: Any) -> Callable[[], float]:
    """Return the clock that timers go by: nobody sets it."""
    return node.loop.asyncio_loop.time


def _rate_limit(node: nodes.rate_limit, fail: Fail) -> None:  # noqa: ARG001
    """It went by the wall clock: set back by an hour, that stopped the stream for an hour."""
    clock = _clock(node)

    @gen.coroutine
    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> Any:  # noqa: ARG001
        now, due = clock(), node.next
        node.next = max(now, due) + node.interval
        if now < due:
            yield gen.sleep(due - now)
        yield node._emit(x, metadata=metadata)

    node.update = update


def _delay(node: nodes.delay, fail: Fail) -> None:  # noqa: ARG001
    """As rate_limit. Its loop, which is already under way, is left with an empty queue."""
    clock = _clock(node)
    queue: deque[tuple[Any, Any]] = deque()
    last = clock()

    async def emit(x: Any, metadata: Any) -> None:
        nonlocal last
        await _emit_held(node, x, metadata)
        if (rest := last + node.interval - clock()) > 0:
            await asyncio.sleep(rest)
        last = clock()

    begin = _one_by_one(queue, emit)

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> list[Any]:  # noqa: ARG001
        node._retain_refs(metadata or [])
        queue.append((x, metadata or []))
        begin()
        return []

    node.update = update


def _map_async(node: nodes.map_async, fail: Fail) -> None:
    """A failed call passed for a done one; a result could be let go of before it was held; waiting burned the CPU."""
    slots = asyncio.Semaphore(node.work_queue.maxsize or 1)
    calls: deque[tuple[Any, Any]] = deque()

    async def emit(call: Awaitable[Any], metadata: Any) -> None:
        try:
            try:
                result, error = await call
            except asyncio.CancelledError as cancelled:
                task = asyncio.current_task()
                if task is not None and task.cancelling():  # this task is cancelled, not the call
                    raise
                result, error = None, cancelled
            if error is None:
                await _emit_held(node, result, metadata)
            else:
                fail(metadata, error)
                node._release_refs(metadata)
        finally:
            slots.release()

    begin = _one_by_one(calls, emit)

    async def insert(x: Any, metadata: Any) -> None:
        await slots.acquire()
        try:
            calls.append((_begun(node, x), metadata))
        except BaseException as error:
            slots.release()
            if ends_run(error):
                raise
            fail(metadata, error)
            node._release_refs(metadata)
        else:
            begin()

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> Awaitable[None]:  # noqa: ARG001
        node._retain_refs(metadata or [])
        return insert(x, metadata or [])

    node.update = update


def _begun(node: nodes.map_async, x: Any) -> asyncio.Future[Any]:
    call = node.func(x, *node.args, **node.kwargs)
    if not isawaitable(call):
        msg = f"{node!r}: expected its function to return what can be awaited, got a {type(call).__name__}; use map for it"
        raise PipelineError(msg)
    return asyncio.ensure_future(_outcome(call))


async def _outcome(call: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """Return what a call comes to, or what it raises: asyncio lets SystemExit in a task end the loop."""
    try:
        return await settled(call), None
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        if ends_run(error):
            raise
        return None, error


def _map(node: nodes.map, fail: Fail) -> None:  # noqa: ARG001
    """It handed on a coroutine unawaited. And it logged each exception with its traceback: one bad topic would flood the log."""
    _in_order(node, lambda x: node.func(x, *node.args, **node.kwargs))


def _starmap(node: nodes.starmap, fail: Fail) -> None:  # noqa: ARG001
    """As map; and it took tuples only."""
    _in_order(node, lambda x: node.func(*x, *node.args, **node.kwargs))


def _pluck(node: nodes.pluck, fail: Fail) -> None:  # noqa: ARG001
    """As map, where what it picks must be awaited."""

    def call(x: Any) -> Any:
        return tuple([x[one] for one in node.pick]) if isinstance(node.pick, list) else x[node.pick]

    _in_order(node, call)


def _in_order(node: Any, call: Callable[[Any], Any]) -> None:
    def emit(result: Any, x: Any, metadata: Any) -> list[Any]:  # noqa: ARG001
        return node._emit(result, metadata=metadata)

    steps = InOrder(call, emit)
    node.update, node.settle, node.awaits = steps.update, steps.settle, is_async(getattr(node, "func", None))


def _filter(node: nodes.filter, fail: Fail) -> None:  # noqa: ARG001
    """It let everything through where its predicate returned a coroutine; and what `remove` negates, nothing."""
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

    negation.__name__ = "<lambda>"  # as streamz has it, and the node's name with it
    return negation


def _sink(node: sinks.sink, fail: Fail) -> None:  # noqa: ARG001
    """It was done with an element whose function returned a generator, which had done nothing."""

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


def _accumulate(node: nodes.accumulate, fail: Fail) -> None:  # noqa: ARG001
    """It took a coroutine for the new state; and it logged each exception, as map."""

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> list[Any]:  # noqa: ARG001
        if node.state is nodes.no_default:
            node.state, result = x, x
        else:
            result = expect_plain(node.func(node.state, x, **node.kwargs), node, "the accumulator")
            state, result = result if node.returns_state else (result, result)
            node.state = expect_plain(state, node, "the accumulator")
        return node._emit((node.state, result) if node.with_state else result, metadata=metadata)

    node.update = update


def _unique(node: nodes.unique, fail: Fail) -> None:  # noqa: ARG001
    """It took a coroutine for a key, and every element for a new one."""
    key = node.key
    node.key = lambda x: expect_plain(key(x), node, "the key function")


def _zip(node: nodes.zip, fail: Fail) -> None:  # noqa: ARG001
    """With one source behind both sides, to wait for the other side stopped the source that was to bring it.

    What waits for a partner stays pending, as much as there is of it.
    """
    above = [set(_upwards(side)) for side in node.upstreams]
    if any(a & b for i, a in enumerate(above) for b in above[i + 1 :]):
        node.maxsize = float("inf")


def _sink_to_textfile(node: sinks.sink_to_textfile, fail: Fail) -> None:  # noqa: ARG001
    """It left lines in its buffer, which a killed process loses after their entries were acknowledged."""

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> list[Any]:  # noqa: ARG001
        node._fp.write(x + node._end)
        node._fp.flush()
        return []

    node.update = update


def _upwards(node: Stream) -> Iterator[Stream]:
    yield node
    for up in node.upstreams:
        yield from _upwards(up)


REPAIRS: dict[type[Stream], Repair] = {
    nodes.accumulate: _accumulate,
    nodes.delay: _delay,
    nodes.filter: _filter,
    nodes.flatten: _flatten,
    nodes.latest: _latest,
    nodes.map: _map,
    nodes.map_async: _map_async,
    nodes.partition: _partition,
    nodes.partition_unique: _partition_unique,
    nodes.pluck: _pluck,
    nodes.rate_limit: _rate_limit,
    nodes.slice: _slice,
    nodes.starmap: _starmap,
    nodes.timed_window_unique: _timed_window_unique,
    nodes.unique: _unique,
    nodes.zip: _zip,
    sinks.sink: _sink,
    sinks.sink_to_textfile: _sink_to_textfile,
}
