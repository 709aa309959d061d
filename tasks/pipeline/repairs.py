"""Repairs of streamz 0.6.6's nodes whose faults a guard cannot prevent.

Each repair replaces methods of one node in place; its docstring describes the fault. A repair may go once streamz has
fixed the fault. tests/nodes/test_nodes.py has a test for each that fails without it.
Repairs of nodes that call a function for each element are in `tasks.pipeline.await_repairs`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from inspect import isawaitable
from typing import Any

from streamz import Stream, sinks
from streamz import core as nodes
from tornado import gen

from tasks.base.fatal import ends_run
from tasks.errors import PipelineError
from tasks.group.attempts import Postponed
from tasks.pipeline.await_repairs import AWAITING, Fail, Repair
from tasks.pipeline.awaiting import PLAIN, expect_plain, settled
from tasks.pipeline.frame_repairs import repair_aggregation
from tasks.pipeline.fusible import NOTHING
from tasks.pipeline.receipts import receipts

__all__ = ["REPAIRS"]


def _slice(node: nodes.slice, fail: Fail) -> None:  # noqa: ARG001
    """Return awaitables from `update`, and pass nothing after `end`.

    fault    It called `emit`, which waits for the loop in which it runs; with an `end` of 0 it stayed connected.
    """

    def work(x: Any, metadata: Any) -> Any:  # noqa: ARG001 - see `tasks.pipeline.fusible`
        wanted = node.state >= node.star and (node.state - node.star) % node.step == 0
        if node.end is not None and node.state >= node.end:
            return NOTHING
        node.state += 1
        return x if wanted else NOTHING

    _emit_what_it_makes(node, work)


def _emit_what_it_makes(node: Any, work: Callable[[Any, Any], Any]) -> None:
    """Have a node emit what `work` returns for each element, also within fused runs."""

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> list[Any]:  # noqa: ARG001
        result = work(x, metadata)
        return [] if result is NOTHING else node._emit(result, metadata=metadata)

    node.update, node.work = update, work


def _keep_unique(node: Any, x: Any, metadata: Any) -> None:
    """Put an element into a node's buffer of unique elements, and release the one that it replaces."""
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
    """Empty a node's buffer; return its elements and their metadata in one list."""
    elements = tuple(node._buffer.values())
    metadata = [m for several in node._metadata_buffer.values() for m in several]
    node._buffer, node._metadata_buffer = {}, {}
    return elements, metadata


def _partition_unique(node: nodes.partition_unique, fail: Fail) -> None:  # noqa: ARG001
    """Release dropped elements, and emit flat metadata.

    fault    It never released the elements that it dropped, and emitted a list of lists as metadata.
    """

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
    """Release dropped elements.

    fault    As in `partition_unique`. The node's own loop stays, and emits the buffered elements after each interval.
    """

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> Any:  # noqa: ARG001
        _keep_unique(node, x, metadata)
        return node.last

    node.update = update


def _partition(node: nodes.partition, fail: Fail) -> None:  # noqa: ARG001
    """Call the key function before retaining the element, and refuse coroutines as keys.

    fault    If the key function raised, the element stayed retained forever; a coroutine was accepted as a key.
    """
    update = node.update

    def keyed(x: Any, who: Stream | None = None, metadata: Any = None) -> Any:
        key = expect_plain(type(node)._get_key(node, x), node, "the key function")
        node._get_key = lambda _: key
        return update(x, who=who, metadata=metadata)

    node.update = keyed


def _one_by_one(queue: deque[tuple[Any, Any]], do: Callable[[Any, Any], Awaitable[None]]) -> Callable[[], None]:
    """Return a function that starts a task which calls `do` for each queued item, one at a time; no second task starts."""
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
    """Emit a retained element, and release it once all work behind is done."""
    for one in node._emit(x, metadata=metadata):
        await one
    node._release_refs(metadata)


def _latest(node: nodes.latest, fail: Fail) -> None:  # noqa: ARG001
    """Emit the newest element whenever the last one is done; release superseded elements without emitting them.

    fault    It missed an element that came while it was busy if no other followed, and retained one that was done.
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
    """Return the event loop's monotonic clock, which timers use."""
    return node.loop.asyncio_loop.time


def _rate_limit(node: nodes.rate_limit, fail: Fail) -> None:  # noqa: ARG001
    """Measure intervals with a monotonic clock.

    fault    It used the wall clock: when that was set back by an hour, the stream stopped for an hour.
    """
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
    """Measure delays with a monotonic clock.

    fault    As in `rate_limit`. The node's own loop, which is running already, is left with an empty queue.
    """
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
    """Fail the entries of failed calls, and emit results in order.

    fault    A failed call counted as done; a result could be released before it was retained; a full queue was polled in a busy loop.
    """
    slots = asyncio.Semaphore(node.work_queue.maxsize or 1)
    calls: deque[tuple[Any, Any]] = deque()
    postponed: set[str] = set()

    async def emit(call: Awaitable[Any], metadata: Any) -> None:
        try:
            result, error = await _ended(call)
            if _is_postponed(metadata, error, postponed):
                return  # still retained: no later element may overtake one that is left to the next run
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
            calls.append((asyncio.ensure_future(_outcome(node.begin_call(x, metadata))), metadata))
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
    node.begin_call = lambda x, _: _begun(node, x)


def _is_postponed(metadata: Any, error: BaseException | None, postponed: set[str]) -> bool:
    """Return whether an element is left to the next run of its source, given by lease, as one before it was."""
    if not postponed and not isinstance(error, Postponed):
        return False
    leases = {receipt.fence.lease for receipt in receipts(metadata)}
    if isinstance(error, Postponed):
        postponed |= leases
    return not postponed.isdisjoint(leases)


def _begun(node: nodes.map_async, x: Any) -> Awaitable[Any]:
    """Call a node's function, and return its awaitable."""
    call = node.func(x, *node.args, **node.kwargs)
    if not isawaitable(call):
        msg = f"{node!r}: expected its function to return an awaitable, got a {type(call).__name__}; use map instead"
        raise PipelineError(msg)
    return call


async def _ended(call: Awaitable[tuple[Any, BaseException | None]]) -> tuple[Any, BaseException | None]:
    """Return the outcome of a call, also of one that was cancelled."""
    try:
        return await call
    except asyncio.CancelledError as cancelled:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # this task is cancelled, not the call
            raise
        return None, cancelled


async def _outcome(call: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """Return a call's result, or its exception: a SystemExit raised in an asyncio task would end the loop."""
    try:
        return await settled(call), None
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        if ends_run(error):
            raise
        return None, error


def _accumulate(node: nodes.accumulate, fail: Fail) -> None:  # noqa: ARG001
    """Refuse coroutines as the state, and log nothing.

    fault    It accepted a coroutine as the new state, and logged each exception, like `map`.
    """
    repair_aggregation(node)

    def work(x: Any, metadata: Any) -> Any:  # noqa: ARG001 - see `tasks.pipeline.fusible`
        if node.state is nodes.no_default:
            node.state = result = x
        else:
            more = node.kwargs
            result = node.func(node.state, x, **more) if more else node.func(node.state, x)
            if type(result) not in PLAIN:
                expect_plain(result, node, "the accumulator")
            state = result
            if node.returns_state:
                state, result = result
                expect_plain(state, node, "the accumulator")
            node.state = state
        return (node.state, result) if node.with_state else result

    _emit_what_it_makes(node, work)


def _unique(node: nodes.unique, fail: Fail) -> None:  # noqa: ARG001
    """Refuse coroutines as keys.

    fault    It accepted a coroutine as a key, so that every element counted as new.
    """

    def work(x: Any, metadata: Any) -> Any:  # noqa: ARG001 - see `tasks.pipeline.fusible`
        key, seen = expect_plain(node.key(x), node, "the key function"), node.seen
        if not isinstance(seen, list):
            if seen.get(key) is not None:  # which an LRU notes, unlike `in`
                return NOTHING
            seen[key] = 1
            return x
        is_new = key not in seen
        if not is_new:
            seen.remove(key)
        seen.insert(0, key)
        if node.maxsize:
            del seen[node.maxsize :]
        return x if is_new else NOTHING

    _emit_what_it_makes(node, work)


def _zip(node: nodes.zip, fail: Fail) -> None:  # noqa: ARG001
    """Lift the limit on waiting elements if one source feeds several sides; elements without a partner stay pending.

    fault    A full side blocked the source that was to feed the other side.
    """
    above = [set(_upwards(side)) for side in node.upstreams]
    if any(a & b for i, a in enumerate(above) for b in above[i + 1 :]):
        node.maxsize = float("inf")


def _sink_to_textfile(node: sinks.sink_to_textfile, fail: Fail) -> None:  # noqa: ARG001
    """Flush each line.

    fault    It buffered lines, which a killed process lost after their entries were acknowledged.
    """

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> list[Any]:  # noqa: ARG001
        node._fp.write(x + node._end)
        node._fp.flush()
        return []

    node.update = update


def _upwards(node: Stream) -> Iterator[Stream]:
    """Yield a node and all nodes above it."""
    yield node
    for up in node.upstreams:
        yield from _upwards(up)


REPAIRS: dict[type[Stream], Repair] = {
    nodes.accumulate: _accumulate,
    nodes.delay: _delay,
    nodes.latest: _latest,
    nodes.map_async: _map_async,
    nodes.partition: _partition,
    nodes.partition_unique: _partition_unique,
    nodes.rate_limit: _rate_limit,
    nodes.slice: _slice,
    nodes.timed_window_unique: _timed_window_unique,
    nodes.unique: _unique,
    nodes.zip: _zip,
    sinks.sink_to_textfile: _sink_to_textfile,
    **AWAITING,
}
