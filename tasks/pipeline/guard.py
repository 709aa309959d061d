"""What makes a streamz graph safe to acknowledge on: a receipt for every entry, and a guard at every node.

streamz 0.6.6 lets go of an element before asynchronous work on it is done, and an exception ends whatever loop it
reaches. So each node's `update` is wrapped: what it returns to be awaited holds the receipts until it is done, and
an exception is caught at the node where it happened and marks the receipts, so that nothing stops and nothing that
failed passes for done. What wrapping cannot mend is repaired node by node (`tasks.pipeline.repairs`); what nobody has looked
at is refused.
"""

import asyncio
import contextvars
import itertools
import threading
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from streamz import Stream
from streamz import core as nodes
from streamz import sinks as streamz_sinks
from streamz.sources import Source
from tornado import gen

from tasks.base.fatal import ends_run
from tasks.base.logs import get_logger
from tasks.errors import PipelineError
from tasks.pipeline.awaiting import refuse_undone
from tasks.pipeline.fusion import Fusion
from tasks.pipeline.graphs import Watched, graph
from tasks.pipeline.receipts import Failure, Metadata, Receipt, receipts
from tasks.pipeline.repairs import REPAIRS

__all__ = ["Meter", "Secured", "combining", "secure", "trust"]

logger = get_logger(__name__)


@dataclass(slots=True, eq=False)
class Meter:
    """What one node has done: elements in, calls that failed, and seconds spent in it alone.

    seconds    estimated where calls are quick: of a slow one among them too much or nothing may be counted
    waiting    elements that asynchronous work in it, or behind it, is not done with
    came       elements in by where they came from, of a node that others flow together in
    keeps      how many times the node holds a receipt for elements to come
    remembers  whether what it keeps is part of the state that is stored
    """

    name: str
    node: Stream
    received: int = 0
    failed: int = 0
    waiting: int = 0
    seconds: float = 0.0
    came: Counter[Stream | None] = field(default_factory=Counter)
    keeps: int = 0
    remembers: bool = False


# Proven by tests/nodes/test_nodes.py, node by node: wrapped as they are, or with their repair.
_SAFE: set[type[Stream]] = {
    Stream, nodes.buffer, nodes.collect, nodes.combine_latest, nodes.sliding_window, nodes.timed_window, nodes.union,
    nodes.zip_latest, streamz_sinks.to_websocket, *REPAIRS,
}  # fmt: skip


# These keep elements for elements to come; while they do, nothing is being done with them.
_KEEPING: set[type[Stream]] = {
    nodes.collect, nodes.combine_latest, nodes.partition, nodes.partition_unique, nodes.sliding_window,
    nodes.timed_window, nodes.timed_window_unique, nodes.zip, nodes.zip_latest,
}  # fmt: skip


# These emit from a loop that streamz starts when they are made, in the context of that moment.
_LOOPING: set[type[Stream]] = {nodes.buffer, nodes.timed_window, nodes.timed_window_unique}


def trust(node_type: type[Stream], *, keeps: bool = False) -> type[Stream]:
    """Admit a node type to pipelines that acknowledge; usable as a decorator.

    What it promises: it retains the metadata of what it keeps, releases it when that is done with, passes it on with
    what it emits, and returns what must be awaited from `update`.

    keeps    what it retains waits for elements to come, as in a window, or to be written with them: nothing is being done
             with it. If it has a `before_stop`, the graph's thread calls that to write it; it returns False if it could not
    """
    _SAFE.add(node_type)
    if keeps:
        _KEEPING.add(node_type)
    return node_type


class Secured:
    """A graph made safe to acknowledge on: all its nodes wrapped, and what each has done. Made by `secure`."""

    def __init__(self, *, fuse: bool) -> None:
        self._late: weakref.WeakKeyDictionary[Stream, Callable[..., Any]] = weakref.WeakKeyDictionary()
        self.meters: list[Meter] = []
        self.waiting = 0
        """How much asynchronous work is under way."""
        self.nested = 0.0
        """Seconds spent in the nodes that the one at work has called."""
        self.at: Meter | None = None
        """The node whose function is running. The graph's thread sets it."""
        self.outbox: Any = None
        """Where results wait for the cut that stores their state, in a graph that keeps its state."""
        self.mark: Callable[[], Receipt] | None = None
        """Returns a receipt that no entry has, for what a timer emits, in a graph that keeps its state."""
        self.context = contextvars.copy_context()
        """The context variables of the run, which all that the graph calls sees."""
        self.fusion = Fusion(self, enabled=fuse)
        self._guards: weakref.WeakSet[asyncio.Task[None]] = weakref.WeakSet()
        self._has_ended = False
        self._ended_loops: list[Any] = []
        self._ending = threading.Lock()  # a loop ends in its own thread, and must not be missed by a start in another

    def begin(self) -> None:
        """Have the nodes with loops of their own work, those that have ended anew."""
        with self._ending:
            self._has_ended = False
            ended, self._ended_loops = self._ended_loops, []
        for node in ended:
            node.loop.add_callback(node.cb)

    def end(self) -> None:
        """End what timed nodes would do later: what they keep is pending, and is redelivered."""
        self._has_ended = True
        partitions: list[Any] = [meter.node for meter in self.meters if type(meter.node) is nodes.partition]
        for node in partitions:
            for timer in list(node._callbacks.values()):
                node.loop.add_callback(timer.cancel)

    @property
    def busy_nodes(self) -> list[str]:
        """The names of the nodes that work is under way in: what they await, or a function that has not returned. Any thread."""
        names = [meter.name for meter in list(self.meters) if meter.waiting]
        if (at := self.at) is not None and at.name not in names:
            names.append(at.name)
        return names

    def wrap(self, node: Stream, name: str) -> None:
        """Guard one node's `update`."""
        meter = Meter(name, node)
        self.meters.append(meter)
        if vars(node).get("update") is (late := self._late.pop(node, None)) and late is not None:
            del node.update
        node.secured, node.meter = self, meter
        node.downstreams.data = Watched(node.downstreams.data, before=self._secure_late, after=self.fusion.unfuse)
        if isinstance(node, Source):
            return
        if repair := REPAIRS.get(type(node)):
            repair(node, lambda metadata, error: _fail(meter, metadata, error))
        if type(node) in _KEEPING:
            _count_what_it_keeps(node, meter)
        if type(node) in _LOOPING:
            self._emit_in_context(node)
        if len(node.upstreams) > 1:
            _count_by_upstream(node, meter)
        update = node.update

        def guarded(x: Any, who: Stream | None = None, metadata: Metadata = None) -> list[Any]:
            meter.received += 1
            outer, self.nested = self.nested, 0.0
            outer_at, self.at = self.at, meter
            began = perf_counter()
            try:
                waiting = list(_awaitables(update(x, who=who, metadata=metadata)))
            except BaseException as error:
                if ends_run(error):
                    raise
                _fail(meter, metadata, error)
                waiting = []
            self.at = outer_at
            took = perf_counter() - began
            meter.seconds += took - self.nested
            self.nested = outer + took
            return self.hold(node, waiting, metadata) if waiting else waiting

        node.update = guarded

    def _emit_in_context(self, node: Stream) -> None:
        emit = node._emit

        def emit_in_context(x: Any, metadata: Metadata = None) -> list[Any]:
            with self._ending:
                if self._has_ended:
                    self._ended_loops.append(node)
                    raise gen.Return  # which ends the loop, a coroutine of tornado's
            if self.mark is None or receipts(metadata):
                return self.context.copy().run(emit, x, metadata)
            # Nothing else would show that what follows is still at work with the element.
            mark = self.mark()
            try:
                return self.context.copy().run(emit, x, [*(metadata or []), {"ref": mark}])
            finally:
                mark.release()

        node._emit = emit_in_context

    def _secure_late(self, node: Stream) -> None:
        """Have a node that is being connected guarded before its first element; until then it may be half made."""
        reference = weakref.ref(node)

        def update(x: Any, who: Any = None, metadata: Metadata = None) -> Any:
            late: Any = reference()
            try:
                secure(late)
            except PipelineError as error:
                _fail(who.meter, metadata, error)
                return []
            return late.update(x, who=who, metadata=metadata)

        if not hasattr(node, "secured"):
            self._late[node] = node.update = update

    def fail(self, node: Stream, metadata: Metadata, error: BaseException) -> None:
        """Count a failure of a node, and mark the receipts of what it failed on."""
        _fail(node.meter, metadata, error)

    def hold(self, node: Stream, waiting: list[Awaitable[Any]], metadata: Metadata) -> list[Any]:
        """Return what holds the receipts until all that a node returned to be awaited is done."""
        if all(one in self._guards for one in waiting):
            return waiting  # a guard further down holds the receipts already
        return [self._guard(node.meter, waiting, metadata)]

    def _guard(self, meter: Meter, waiting: list[Awaitable[Any]], metadata: Metadata) -> "asyncio.Task[None]":
        """Hold the receipts until all of `waiting` is done. Cancelled, it never lets go: the entries stay pending."""
        held = receipts(metadata)
        for receipt in held:
            receipt.retain()
        self.waiting += 1
        meter.waiting += 1

        async def wait() -> None:
            for one in waiting:
                try:
                    await one
                except BaseException as error:
                    if task.cancelling() or isinstance(error, GeneratorExit) or ends_run(error):
                        raise
                    _fail(meter, metadata, error)
            self.waiting -= 1
            meter.waiting -= 1
            for receipt in held:
                receipt.release()

        task = asyncio.ensure_future(wait())
        self._guards.add(task)
        return task


def secure(start: Stream, *, fuse: bool = True) -> Secured:
    """Make the graph that `start` is part of safe to acknowledge on. Secured before, only what is new is wrapped.

    fuse      whether runs of simple nodes are done in one call (`tasks.pipeline.fusion`); decided when it is secured first
    raises    PipelineError: a node of a type that is not known to be safe, or with a function whose work it would leave
              undone; nothing is changed
    """
    reachable = list(graph(start))
    for node in reachable:
        if type(node) not in _SAFE and not isinstance(node, Source):
            msg = (
                f"pipeline node {node!r}: entries cannot be acknowledged behind a {type(node).__name__!r}, which may lose "
                "them; use another node, or vouch for it with tasks.pipeline.guard.trust"
            )
            raise PipelineError(msg)
        if not hasattr(node, "secured"):
            refuse_undone(node)
    found = [node.secured for node in reachable if hasattr(node, "secured")]
    secured = found[0] if found else Secured(fuse=fuse)
    for node, name in _named(reachable):
        secured.wrap(node, name)
        secured.fusion.unfuse()
    secured.fusion.fuse(reachable)
    return secured


def combining(source: Stream) -> list[str]:
    """Return the names of the nodes behind `source` that make an element of several: windows, joins, an accumulator.

    An entry that comes to them late meets others than it would have met. Nodes that only keep what they are to write do not count.
    """
    found: dict[Stream, str] = {}
    seen, queue = {source}, [source]
    while queue:
        node = queue.pop()
        if type(node) in _KEEPING | {nodes.accumulate} and not hasattr(node, "before_stop") and hasattr(node, "meter"):
            found[node] = node.meter.name
        queue += [each for each in node.downstreams if each is not None and each not in seen]
        seen.update(queue)
    return sorted(found.values())


def _count_what_it_keeps(node: Stream, meter: Meter) -> None:
    retain, release = node._retain_refs, node._release_refs

    def retain_refs(metadata: Metadata, n: int = 1) -> None:
        retain(metadata, n)
        keep(metadata, n)

    def release_refs(metadata: Metadata, n: int = 1) -> None:
        keep(metadata, -n)
        release(metadata, n)

    def keep(metadata: Metadata, n: int) -> None:
        for m in metadata or ():
            if isinstance(kept := m.get("ref"), Receipt):  # not what another source counts its elements by
                kept.kept += n
                meter.keeps += n

    node._retain_refs, node._release_refs = retain_refs, release_refs


def _count_by_upstream(node: Stream, meter: Meter) -> None:
    update = node.update

    def counted(x: Any, who: Stream | None = None, metadata: Metadata = None) -> Any:
        meter.came[who] += 1
        return update(x, who=who, metadata=metadata)

    node.update = counted


def _fail(meter: Meter, metadata: Metadata, error: BaseException) -> None:
    meter.failed += 1
    failed = receipts(metadata)
    for receipt in failed:
        receipt.fail(Failure(meter.name, error))
    if not failed and meter.failed == 1:
        # An element that no entry went into, of another source in the graph.
        logger.error("node %r raised; later errors there are counted only", meter.name, exc_info=error)


def _named(found: Iterable[Stream]) -> Iterator[tuple[Stream, str]]:
    """Name each node that has no name yet by its own or by its type and function; the second of a name gets a '#2'."""
    taken = {node.meter.name for node in found if hasattr(node, "meter")}
    for node in found:
        if hasattr(node, "meter"):
            continue
        function = getattr(node, "func", None) or getattr(node, "predicate", None)
        told = getattr(function, "__name__", "")
        first = node.name or (f"{type(node).__name__}({told})" if told else type(node).__name__)
        names = itertools.chain([first], (f"{first}#{n}" for n in itertools.count(2)))
        taken.add(name := next(name for name in names if name not in taken))
        yield node, name


def _awaitables(result: Any) -> Iterator[Awaitable[Any]]:
    """Yield what of an update's result is to be awaited; zip_latest returns lists of lists."""
    if result is None:
        return
    if isinstance(result, list):
        for one in result:
            yield from _awaitables(one)
    elif hasattr(result, "__await__"):
        yield result
