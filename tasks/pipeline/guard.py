"""Guards: make a streamz graph safe to acknowledge on by wrapping each node's `update`.

streamz 0.6.6 releases an element before asynchronous work on it is done, and an exception ends the loop that it reaches.
A guard therefore holds an element's receipts until all awaited work is done, and catches an exception at its node
and marks the receipts: the loop goes on, and a failed entry is not acknowledged as done. Faults that a wrapper cannot
prevent are repaired node by node (`tasks.pipeline.repairs`); node types that are not known to be safe are refused.
"""

import asyncio
import contextvars
import itertools
import threading
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
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
from tasks.errors import PipelineError, SettingsError
from tasks.group.attempts import Attempts, Postponed
from tasks.pipeline import retrying
from tasks.pipeline.awaiting import awaitables, close_all, refuse_undone
from tasks.pipeline.fusion import Fusion
from tasks.pipeline.graphs import Watched, graph
from tasks.pipeline.part_letters import PartLetter
from tasks.pipeline.receipts import Failure, Metadata, Receipt, receipts
from tasks.pipeline.repairs import REPAIRS
from tasks.pipeline.retry import Retry, retry_of
from tasks.pipeline.retrying import GivenUpError, Retried

__all__ = ["Meter", "Secured", "add_check", "combining", "secure", "trust"]

logger = get_logger(__name__)


@dataclass(slots=True, eq=False)
class Meter:
    """Counters of one node: elements received, failed calls, and seconds spent in the node alone.

    seconds    an estimate if calls are quick: a slow one among them may count several times or not at all
    waiting    elements with unfinished asynchronous work in this node or behind it
    came       elements by upstream node; only for nodes with several
    keeps      number of receipts that the node holds for later elements
    remembers  whether the kept elements are part of the stored state
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


# Safe when wrapped, as they are or with their repair: tests/nodes/test_nodes.py proves it for each.
_SAFE: set[type[Stream]] = {
    Stream, nodes.buffer, nodes.collect, nodes.combine_latest, nodes.sliding_window, nodes.timed_window, nodes.union,
    nodes.zip_latest, streamz_sinks.to_websocket, *REPAIRS,
}  # fmt: skip


# Nodes that keep elements for later ones; meanwhile no work on these elements is under way.
_KEEPING: set[type[Stream]] = {
    nodes.collect, nodes.combine_latest, nodes.partition, nodes.partition_unique, nodes.sliding_window,
    nodes.timed_window, nodes.timed_window_unique, nodes.zip, nodes.zip_latest,
}  # fmt: skip


# Nodes that emit from a loop of their own, which keeps the context in which the node was created.
_LOOPING: set[type[Stream]] = {nodes.buffer, nodes.timed_window, nodes.timed_window_unique}


# These keep what they have made of earlier elements, but no element.
_ACCUMULATING: set[type[Stream]] = {nodes.accumulate}

# What is asked of each node before a graph is secured: raises PipelineError if it cannot be.
_CHECKS: list[Callable[[Stream], None]] = [refuse_undone]


def add_check(check: Callable[[Stream], None]) -> None:
    """Have `check` called with each node of a graph that is being secured; it raises PipelineError to refuse the node."""
    _CHECKS.append(check)


def trust(
    node_type: type[Stream], *, keeps: bool = False, loops: bool = False, accumulates: bool = False
) -> type[Stream]:
    """Admit a node type to pipelines that acknowledge; usable as a decorator.

    The node must retain the metadata of elements that it keeps, release it when it drops them, pass it on with the
    elements that it emits, and return all awaitables from `update`.

    keeps    retained elements wait for later ones, as in a window, or to be written with them; no work on them is under way.
             The graph's thread calls the node's `before_stop`, if it has one, to write them; it returns False if it failed
    loops    it emits from a loop that starts when it is made
    accumulates   its results depend on earlier elements
    """
    _SAFE.add(node_type)
    for holds, types in ((keeps, _KEEPING), (loops, _LOOPING), (accumulates, _ACCUMULATING)):
        if holds:
            types.add(node_type)
    return node_type


class Secured:
    """A graph whose nodes are all guarded, with a meter for each; created by `secure`."""

    def __init__(self, *, fuse: bool, retry: Retry | None = None) -> None:
        self._late: weakref.WeakKeyDictionary[Stream, Callable[..., Any]] = weakref.WeakKeyDictionary()
        self.meters: list[Meter] = []
        self.waiting = 0
        """Number of elements with unfinished asynchronous work, counted at each guard that holds them."""
        self.nested = 0.0
        """Seconds spent in nodes that the running node has called."""
        self.at: Meter | None = None
        """The node whose function is running; set by the graph's thread."""
        self.outbox: Any = None
        """Where results wait for the cut that stores their state, in a graph that keeps its state."""
        self.mark: Callable[[], Receipt] | None = None
        """Returns a receipt without an entry, for elements that a timer emits in a graph that keeps its state."""
        self.put_letter: Callable[[PartLetter], None] | None = None
        """Stores a part of an element as a dead letter, unless failures stop the run."""
        self.context = contextvars.copy_context()
        """The context variables of the run, in which all functions of the graph are called."""
        self.retry = retry
        """How nodes without options of their own try failed calls again."""
        self.attempts: weakref.WeakValueDictionary[str, Attempts] = weakref.WeakValueDictionary()
        """The failed attempts of each consumer whose entries the graph gets, by its lease."""
        self.retried: dict[Any, Retried] = {}
        """The calls that are tried again. The graph's thread changes it."""
        self.has_postponed = False
        """Whether an element is left to the next run, because this one ended while its call was to be tried again."""
        self.fusion = Fusion(self, enabled=fuse)
        self._guards: weakref.WeakSet[asyncio.Task[None]] = weakref.WeakSet()
        self._has_ended = False
        self._ended_loops: list[Any] = []
        self._ending = threading.Lock()  # a loop ends in its own thread, and must not be missed by a start in another

    def begin(self) -> None:
        """Allow the loops of timed nodes, and restart those that `end` has ended."""
        with self._ending:
            self._has_ended = False
            ended, self._ended_loops = self._ended_loops, []
        for node in ended:
            node.loop.add_callback(node.cb)

    def end(self) -> None:
        """End the loops and timers of timed nodes; entries that they keep stay pending and are redelivered."""
        self._has_ended = True
        partitions: list[Any] = [meter.node for meter in self.meters if isinstance(meter.node, nodes.partition)]
        for node in partitions:
            for timer in list(node._callbacks.values()):
                node.loop.add_callback(timer.cancel)

    @property
    def busy_nodes(self) -> list[str]:
        """The names of nodes at work: with unfinished awaited work, or a function that has not returned. Any thread may call."""
        names = [meter.name for meter in list(self.meters) if meter.waiting]
        if (at := self.at) is not None and at.name not in names:
            names.append(at.name)
        return names

    def wrap(self, node: Stream, name: str, retry: Retry | None = None) -> None:
        """Guard one node's `update`; let it try failed calls again if it has a `retry`."""
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
        retrying.apply(node, retry, self)
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
                waiting = list(awaitables(update(x, who=who, metadata=metadata)))
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
                    raise gen.Return  # ends the loop, which is a tornado coroutine
            if self.mark is None or receipts(metadata):
                return self.context.copy().run(emit, x, metadata)
            # Without this receipt, nothing would show that nodes behind are still at work on the element.
            mark = self.mark()
            try:
                return self.context.copy().run(emit, x, [*(metadata or []), {"ref": mark}])
            finally:
                mark.release()

        node._emit = emit_in_context

    def _secure_late(self, node: Stream) -> None:
        """Guard a newly connected node at its first element: before that its constructor may not have finished."""
        reference = weakref.ref(node)

        def update(x: Any, who: Any = None, metadata: Metadata = None) -> Any:
            late: Any = reference()
            try:
                secure(late)
            except (PipelineError, SettingsError) as error:
                _fail(who.meter, metadata, error)
                return []
            return late.update(x, who=who, metadata=metadata)

        if not hasattr(node, "secured"):
            self._late[node] = node.update = update

    def fail(self, node: Stream, metadata: Metadata, error: BaseException) -> None:
        """Count a failure of a node, and mark the receipts of the element."""
        _fail(node.meter, metadata, error)

    def hold(self, node: Stream, waiting: list[Awaitable[Any]], metadata: Metadata) -> list[Any]:
        """Return awaitables that hold the receipts until all of `waiting` is done."""
        if all(one in self._guards for one in waiting):
            return waiting  # a guard further down holds the receipts already
        return [self._guard(node.meter, waiting, metadata)]

    def _guard(self, meter: Meter, waiting: list[Awaitable[Any]], metadata: Metadata) -> "asyncio.Task[None]":
        """Hold the receipts until all of `waiting` is done; if cancelled, forever, so that the entries stay pending."""
        held = receipts(metadata)
        for receipt in held:
            receipt.retain()
        self.waiting += 1
        meter.waiting += 1

        async def wait() -> None:
            for one in waiting:
                try:
                    await one
                except Postponed:
                    held.clear()  # they stay retained, so that the entries stay pending
                except BaseException as error:
                    if task.cancelling() or isinstance(error, GeneratorExit) or ends_run(error):
                        raise
                    _fail(meter, metadata, error)
            self.waiting -= 1
            meter.waiting -= 1
            for receipt in held:
                receipt.release()

        task = asyncio.ensure_future(wait())
        if coroutines := [one for one in waiting if isinstance(one, Coroutine)]:
            task.add_done_callback(lambda _: close_all(coroutines))  # it may be cancelled before it awaits them
        self._guards.add(task)
        return task


def secure(start: Stream, *, fuse: bool = True, retry: Retry | None = None) -> Secured:
    """Guard all nodes connected with `start`; nodes that are guarded already stay as they are.

    fuse      call runs of simple nodes at once (`tasks.pipeline.fusion`); fixed by the first call for a graph
    retry     how nodes without options of their own try failed calls again; fixed by the first call for a graph
    raises    PipelineError: a node's type is not known to be safe, or its function returns work that the node would never
              do; SettingsError: invalid options of a node; nothing is changed
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
            for check in _CHECKS:
                check(node)
    found = [node.secured for node in reachable if hasattr(node, "secured")]
    secured = found[0] if found else Secured(fuse=fuse, retry=retry)
    retries = {node: retry_of(node, secured.retry) for node in reachable if not hasattr(node, "secured")}
    for node, name in _named(reachable):
        secured.wrap(node, name, retries[node])
        secured.fusion.unfuse()
    secured.fusion.fuse(reachable)
    return secured


def combining(source: Stream) -> list[str]:
    """Return the names of nodes behind `source` that combine several elements: windows, joins, accumulators.

    A late entry is combined with other elements there than a punctual one. Nodes that only keep elements to write them do not count.
    """
    found: dict[Stream, str] = {}
    seen, queue = {source}, [source]
    while queue:
        node = queue.pop()
        if type(node) in _KEEPING | _ACCUMULATING and not hasattr(node, "before_stop") and hasattr(node, "meter"):
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
            if isinstance(kept := m.get("ref"), Receipt):  # another source may bring a reference counter of its own
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
    attempts = 1
    if isinstance(error, GivenUpError):
        attempts, error = error.attempts, error.error
    for receipt in failed:
        receipt.fail(Failure(meter.name, error, attempts))
    if not failed and meter.failed == 1:
        # No entry went into this element: it comes from another source in the graph.
        logger.error("node %r raised; later errors there are counted only", meter.name, exc_info=error)


def _named(found: Iterable[Stream]) -> Iterator[tuple[Stream, str]]:
    """Give each unnamed node its streamz name, or one from its type and function; repeated names get '#2', '#3', ..."""
    taken = {node.meter.name for node in found if hasattr(node, "meter")}
    for node in found:
        if hasattr(node, "meter"):
            continue
        function = getattr(node, "func", None) or getattr(node, "predicate", None)
        called = getattr(function, "__name__", "")
        first = node.name or (f"{type(node).__name__}({called})" if called else type(node).__name__)
        names = itertools.chain([first], (f"{first}#{n}" for n in itertools.count(2)))
        taken.add(name := next(name for name in names if name not in taken))
        yield node, name
