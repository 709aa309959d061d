"""Fusion: a chain of nodes that are done with an element when they return is one call, faster and with the same effects.

Such nodes are `map`, `starmap`, `filter` and `pluck`, those that only remember (`accumulate`, `unique`, `slice`, keyed states), and
at the end sinks and windows that keep aggregated values. A fused run skips streamz' steps between two nodes: the search for
downstream nodes, another hold on the receipts, a guard's frame. Where it ends, the runs of all following nodes are called in turn.
Behind a source, no receipt is created until one is needed, by a node that is not fused, by unfinished work or by a failure: an
element that is done within the call is held by nothing afterwards, and is part of all states.

A run does the guards' work itself: it counts elements, catches each exception at its node, and measures seconds, or estimates them
for quick functions. A change of connections anywhere in the graph, even by a function of the run, restores plain calls until the
graph is fused again.
"""

import itertools
import random
import threading
from collections.abc import Callable, Iterable
from inspect import isawaitable
from typing import Any, Protocol

from streamz import Stream
from streamz.sinks import sink

from tasks.pipeline.fused_code import Run, compiled
from tasks.pipeline.fusible import can_continue, can_end
from tasks.pipeline.receipts import LazyReceipts, in_full

__all__ = ["Fusion"]

# Reading the clock takes as long as a small function. Below this mean time per element, in seconds, a random number of
# elements, seven on average, go untimed between two timed ones. A fixed number could hit only slow elements, or none.
_QUICK = 20e-6
_UNTIMED = random.Random(0).choices(range(1, 14), k=1009)  # noqa: S311 - no secret depends on these numbers


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
    """The fused runs of one graph.

    version    a number that changes whenever the graph does; a run made for another version falls back to plain calls
    """

    def __init__(self, guards: Guards, *, enabled: bool) -> None:
        self.version = 0
        self._enabled = enabled
        self._fused_version = -1
        self._lock = threading.RLock()  # nodes may be connected in any thread
        self._guards = guards
        self._plain: dict[Stream, Callable[..., Any]] = {}
        self._runs: dict[Stream, Run] = {}
        self._emitters: dict[Stream, Callable[[Any, LazyReceipts], Any]] = {}

    def fuse(self, reachable: Iterable[Stream]) -> None:
        """Fuse all possible runs of a guarded graph, unless it is unchanged since the last call."""
        if not self._enabled or self._fused_version == self.version:
            return
        with self._lock:
            self.unfuse()
            for node in reachable:
                if can_end(node) and not _is_within(node):
                    run = _run_from(node)
                    self._runs[node] = compiled(
                        run, self._guards, self, emit=self._forked(run[-1]), settled=self._settled
                    )
            for node, run in self._runs.items():
                self._plain[node] = node.update
                node.update = _timed(run)
            self._fused_version = self.version

    def unfuse(self) -> None:
        """Restore plain calls after a change of the graph, until the next `fuse`."""
        with self._lock:
            self.version += 1
            for node, update in self._plain.items():
                node.update = update
            self._plain.clear()
            self._runs, self._emitters = {}, {}

    def emitter(self, source: Stream) -> Callable[[Any, LazyReceipts], Any]:
        """Return a function that emits an element of `source`, and returns awaitables.

        The caller must hold the created receipts until it has awaited the result.
        """
        if not self._enabled:
            return lambda x, lazy: source._emit(x, metadata=lazy.metadata())
        if source not in self._emitters:
            following = _only(source)
            run = None if following is None else self._runs.get(following)
            self._emitters[source] = self._sampled(source, run or self._forked(source))
        return self._emitters[source]

    def _forked(self, node: Stream) -> Run:
        """Return a function that does what `node._emit` does, and calls the runs of the following nodes without receipts."""
        following, runs, version = list(node.downstreams), self._runs, self.version

        def emit(x: Any, metadata: Any, weight: int) -> list[Any]:
            node.current_value = x
            waiting: list[Any] = []
            for each in following:
                if self.version == version and (run := runs.get(each)):
                    waiting += run(x, metadata, weight)
                else:
                    waiting += _as_list(each.update(x, who=node, metadata=in_full(metadata)))
            return waiting

        def emit_on(x: Any, metadata: Any, weight: int) -> Any:
            node.current_value = x
            if self.version == version and (run := runs.get(only)):
                return run(x, metadata, weight)
            return _as_list(only.update(x, who=node, metadata=in_full(metadata)))

        if len(following) != 1:
            return emit
        [only] = following
        return emit_on

    def _sampled(self, source: Stream, emit: Run) -> Callable[[Any, LazyReceipts], Any]:
        """Return a function that emits from a source, and times one in eight quick elements for all of them."""
        guards, version = self._guards, self.version
        numbers = itertools.cycle(_UNTIMED)
        untimed = skipped = 0
        lately = 0.0

        def sampled(x: Any, lazy: LazyReceipts) -> Any:
            nonlocal untimed, skipped, lately
            if self.version != version:
                return source._emit(x, metadata=lazy.metadata())
            source.current_value = x
            if skipped < untimed:
                skipped += 1
                return emit(x, lazy, 0)
            weight, skipped, before = skipped + 1, 0, guards.nested
            waiting = emit(x, lazy, weight)
            # Use the mean: with the last time alone, an element's duration would decide which ones are timed.
            lately += (guards.nested - before - lately) / 8
            untimed = next(numbers) if lately < _QUICK else 0
            return waiting

        return sampled

    def _settled(self, node: Any, result: Any, x: Any, metadata: Any) -> list[Any]:
        """Have a node settle a result that must be awaited or iterated, and keep the node out of runs from now on.

        Only the node itself can keep later elements from overtaking this one.
        """
        waiting = node.settle(result, x, in_full(metadata))
        if isawaitable(result) and type(node) is not sink:
            node.awaits = True
            self.unfuse()
        return waiting


def _timed(run: Run) -> Callable[..., list[Any]]:
    """Return the `update` of a run's first node, for calls by nodes that are not fused."""

    def update(x: Any, who: Stream | None = None, metadata: Any = None) -> list[Any]:  # noqa: ARG001
        return list(run(x, metadata, 1))

    return update


def _as_list(result: Any) -> list[Any]:
    """Return the result of an `update` as streamz' `_emit` does: a list, also of a node without a guard."""
    return result if type(result) is list else [] if result is None else [result]


def _only(node: Stream) -> Stream | None:
    """Return the only node that follows, or None if there is none or more than one."""
    following = list(node.downstreams)
    return following[0] if len(following) == 1 else None


def _is_within(node: Stream) -> bool:
    """Return whether a node continues the run of the node before it."""
    [upstream] = node.upstreams
    return upstream is not None and can_continue(upstream) and _only(upstream) is node


def _run_from(node: Stream) -> list[Any]:
    """Return the longest run that starts at a node."""
    run: list[Any] = [node]
    while can_continue(run[-1]) and (following := _only(run[-1])) is not None and can_end(following):
        run.append(following)
    return run
