"""Fusion: a chain of `map`, `starmap`, `filter`, `pluck` and a final `sink` is one call, faster and with the same effects.

A fused run skips streamz' steps between two nodes: the search for downstream nodes, another hold on the receipts, a
guard's frame. Behind a source it also creates no receipts until one is needed, by a node behind the run, by unfinished
work or by a failure. It does the guards' work itself: it counts elements, catches each exception at its node, and measures
seconds, or estimates them for quick functions. A change of connections anywhere in the graph, even by a function of the
run, restores plain calls until the graph is fused again.
"""

import itertools
import random
import threading
from collections.abc import Callable, Iterable
from inspect import isawaitable
from time import perf_counter
from typing import Any, Protocol

from streamz import Stream
from streamz import core as nodes
from streamz.sinks import sink

from tasks.base.fatal import ends_run
from tasks.pipeline.awaiting import PLAIN, is_plain
from tasks.pipeline.receipts import LazyReceipts

__all__ = ["Fusion"]

# Reading the clock takes as long as a small function. Below this mean time per element, in seconds, a random number of
# elements, seven on average, go untimed between two timed ones. A fixed number could hit only slow elements, or none.
_QUICK = 20e-6
_UNTIMED = random.Random(0).choices(range(1, 14), k=1009)  # noqa: S311 - no secret depends on these numbers

_FUSED = (nodes.map, nodes.filter, nodes.pluck, nodes.starmap)


class Guards(Protocol):
    """The guards of a graph's nodes, as `tasks.pipeline.guard.Secured` implements them."""

    nested: float
    at: Any

    def fail(self, node: Stream, metadata: Any, error: BaseException) -> None:
        """Count a failure and mark the receipts."""

    def hold(self, node: Stream, waiting: list[Any], metadata: Any) -> list[Any]:
        """Return an awaitable that holds the receipts until `waiting` is done."""
        ...


class Fusion:
    """The fused runs of one graph."""

    def __init__(self, guards: Guards, *, enabled: bool) -> None:
        self._enabled = enabled
        self._version = 0  # of the graph; a run made for another version falls back to plain calls
        self._fused_version = -1
        self._lock = threading.RLock()  # nodes may be connected in any thread
        self._guards = guards
        self._plain: dict[Stream, Callable[..., Any]] = {}
        self._runs: dict[Stream, Callable[[Any, LazyReceipts], list[Any]]] = {}

    @property
    def version(self) -> int:
        """A number that changes whenever the graph does."""
        return self._version

    def fuse(self, reachable: Iterable[Stream]) -> None:
        """Fuse all possible runs of a guarded graph, unless it is unchanged since the last call."""
        if not self._enabled or self._fused_version == self._version:
            return
        with self._lock:
            self.unfuse()
            for node in reachable:
                if _can_fuse(node) and not _is_within(node) and len(run := _run_from(node)) > 1:
                    self._plain[node] = node.update
                    do, [upstream] = self._fused(run), node.upstreams
                    node.update, self._runs[node] = _timed(do), self._sampled(upstream, do)
            self._fused_version = self._version

    def unfuse(self) -> None:
        """Restore plain calls after a change of the graph, until the next `fuse`."""
        with self._lock:
            self._version += 1
            for node, update in self._plain.items():
                node.update = update
            self._plain.clear()
            self._runs.clear()

    def emitter(self, source: Stream) -> Callable[[Any, LazyReceipts], list[Any]]:
        """Return a function that emits an element of `source`, faster than its `_emit` if only one node follows.

        The caller must hold the created receipts until it has awaited the result.
        """
        head, version = _only(source) if self._enabled else None, self._version
        if head is None:
            return lambda x, lazy: source._emit(x, metadata=lazy.metadata())
        if run := self._runs.get(head):
            return run
        update = head.update

        def emit(x: Any, lazy: LazyReceipts) -> list[Any]:
            if self._version != version:
                return source._emit(x, metadata=lazy.metadata())
            source.current_value = x
            return update(x, source, lazy.metadata())

        return emit

    def _sampled(
        self, source: Stream, do: Callable[[Any, Any, int], list[Any]]
    ) -> Callable[[Any, LazyReceipts], list[Any]]:
        """Return a function that emits to a run behind a source, and times one in eight quick elements for all of them."""
        guards, version = self._guards, self._version
        numbers = itertools.cycle(_UNTIMED)
        untimed = skipped = 0
        lately = 0.0

        def emit(x: Any, lazy: LazyReceipts) -> list[Any]:
            nonlocal untimed, skipped, lately
            if self._version != version:
                return source._emit(x, metadata=lazy.metadata())
            source.current_value = x
            if skipped < untimed:
                skipped += 1
                return do(x, lazy, 0)
            weight, skipped, before = skipped + 1, 0, guards.nested
            waiting = do(x, lazy, weight)
            # Use the mean: with the last time alone, an element's duration would decide which ones are timed.
            lately += (guards.nested - before - lately) / 8
            untimed = next(numbers) if lately < _QUICK else 0
            return waiting

        return emit

    def _fused(self, run: list[Any]) -> Callable[[Any, Any, int], list[Any]]:  # noqa: C901, PLR0915 - one case a type
        """Return the function that calls all nodes of a run.

        It takes an element, its metadata, and a weight: how often to count the measured seconds; 0 measures none.
        """
        guards, last, version = self._guards, run[-1], self._version
        map_, filter_, pluck, _ = _FUSED
        sink_, plain = sink, PLAIN
        # A plain call takes a third of the time of one that unpacks empty arguments.
        steps = [
            (node, node.meter, type(node), not (getattr(node, "args", ()) or getattr(node, "kwargs", ())))
            for node in run
        ]

        def do(x: Any, metadata: Any, weight: int) -> list[Any]:  # noqa: C901, PLR0912, PLR0915
            if weight:
                outer, guards.nested = guards.nested, 0.0
                began = then = perf_counter()
            else:
                outer = began = then = 0.0
            node, meter, waiting = last, last.meter, []
            outer_at = guards.at
            try:
                for node, meter, kind, is_simple in steps:
                    guards.at = meter
                    meter.received += 1
                    if kind is filter_:
                        result = node.predicate(x) if is_simple else node.predicate(x, *node.args, **node.kwargs)
                        if result is not True:
                            if type(result) not in plain and not is_plain(result):
                                waiting = self._settled(node, result, x, metadata)
                                break
                            if not result:
                                break
                    elif kind is sink_:
                        result = node.func(x) if is_simple else node.func(x, *node.args, **node.kwargs)
                        if result is not None and type(result) not in plain and not is_plain(result):
                            waiting = self._settled(node, result, x, metadata)
                        break
                    else:
                        if kind is map_:
                            x = node.func(x) if is_simple else node.func(x, *node.args, **node.kwargs)
                        elif kind is pluck:
                            pick = node.pick
                            x = tuple([x[one] for one in pick]) if isinstance(pick, list) else x[pick]
                        else:
                            x = node.func(*x, *node.args, **node.kwargs)
                        if type(x) not in plain and not is_plain(x):
                            waiting = self._settled(node, x, None, metadata)
                            break
                    if node is last or self._version != version:
                        waiting = node._emit(x, metadata=_in_full(metadata))
                        break
                    node.current_value = x
                    if weight:
                        now = perf_counter()
                        meter.seconds += weight * (now - then)
                        then = now
            except BaseException as error:
                if ends_run(error):
                    raise
                guards.fail(node, _in_full(metadata), error)
                waiting = []
            guards.at = outer_at
            if weight:
                now = perf_counter()
                meter.seconds += weight * (now - then - guards.nested)
                guards.nested = outer + now - began
            return guards.hold(node, waiting, _in_full(metadata)) if waiting else waiting

        return do

    def _settled(self, node: Any, result: Any, x: Any, metadata: Any) -> list[Any]:
        """Have a node settle a result that must be awaited or iterated, and keep the node out of runs from now on.

        Only the node itself can keep later elements from overtaking this one.
        """
        waiting = node.settle(result, x, _in_full(metadata))
        if isawaitable(result) and type(node) is not sink:
            node.awaits = True
            self.unfuse()
        return waiting


def _timed(do: Callable[[Any, Any, int], list[Any]]) -> Callable[..., list[Any]]:
    """Return the `update` of a run's first node, for calls by the node before it."""

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> list[Any]:  # noqa: ARG001
        return do(x, metadata, 1)

    return update


def _in_full(metadata: Any) -> Any:
    """Return an element's metadata with its receipts, as nodes outside a run need it."""
    return metadata.metadata() if isinstance(metadata, LazyReceipts) else metadata


def _only(node: Stream) -> Stream | None:
    """Return the only node that follows, or None if there is none or more than one."""
    following = list(node.downstreams)
    return following[0] if len(following) == 1 else None


def _can_fuse(node: Stream) -> bool:
    """Return whether a node can be part of a run.

    Nodes with several upstreams cannot, because their guard counts elements by origin; nor nodes that emit later.
    """
    return type(node) in _FUSED and len(node.upstreams) == 1 and not _may_emit_later(node)


def _may_emit_later(node: Stream) -> bool:
    """Return whether a node awaits results, or tries failed calls again."""
    return getattr(node, "awaits", False) or getattr(node, "retries", False)


def _can_end(node: Stream) -> bool:
    """Return whether a node can be the sink at the end of a run."""
    return type(node) is sink and len(node.upstreams) == 1 and not _may_emit_later(node)


def _is_within(node: Stream) -> bool:
    """Return whether a node continues the run of the node before it."""
    [upstream] = node.upstreams
    return upstream is not None and _can_fuse(upstream) and _only(upstream) is node


def _run_from(node: Stream) -> list[Any]:
    """Return the longest run that starts at a node, with the sink at its end if there is one."""
    run: list[Any] = [node]
    while _can_fuse(run[-1]) and (following := _only(run[-1])) is not None:
        if not _can_fuse(following) and not _can_end(following):
            break
        run.append(following)
    return run
