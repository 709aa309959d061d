"""The nodes between `scatter` and `gather`: they work on values that Dask workers have, as the plain nodes do on their own.

streamz 0.6.6 hands Dask futures from node to node. It lets go of an element before its task has run, a failed task ends
the loop of a `buffer` in silence, and `filter`, `pluck`, `flatten` and `unique` call their functions with futures. Here,
every node's `update` is replaced when the graph is secured: elements are `Remote` values, and a node that needs to know
something of a value, such as whether it exists, waits for that, one element after the other. So a pipeline has the same
results and dead letters with `scatter` and `gather` around a part of it as without.

This module is imported if Dask is installed; importing it adds the missing nodes to streamz' `DaskStream`.
"""

import functools
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

from streamz import Stream, core
from streamz import dask as parallel
from streamz.dask import DaskStream

from tasks.base.plain_text import error_line
from tasks.errors import PipelineError
from tasks.pipeline.awaiting import Turns, refuse_kinds
from tasks.pipeline.graphs import leads_to
from tasks.pipeline.guard import Secured, add_check, trust
from tasks.pipeline.receipts import Metadata
from tasks.pipeline.repairs import REPAIRS
from tasks.pipeline.retry import has_options
from tasks.remote import calls, dask_calls
from tasks.remote.cluster import Cluster, Remote, remotes_in
from tasks.remote.dask_calls import Failed
from tasks.remote.pickles import dumps

__all__: list[str] = []

Fail = Callable[[Any, BaseException], None]

_CLUSTERS: weakref.WeakKeyDictionary[Secured, Cluster] = weakref.WeakKeyDictionary()
_PLAIN_KINDS = (
    "Dask runs plain functions only: use map_async for an async one, and return a list instead of a generator"
)


# --- what streamz has no Dask node for ---


def _like(plain: type[Stream]) -> type[Stream]:
    """Add a node to `DaskStream` that is made as the plain one is."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        plain.__init__(
            self, *args, **kwargs
        )  # not DaskStream's, which adds an argument that the plain one does not know

    doc = f"Do on Dask workers what `Stream.{plain.__name__}` does."  # streamz' examples run in a graph without workers
    made = type(plain.__name__, (DaskStream, plain), {"__init__": __init__, "__doc__": doc})
    DaskStream.register_api()(made)
    return made


filter_, flatten, pluck, unique = _like(core.filter), _like(core.flatten), _like(core.pluck), _like(core.unique)
partition_unique, timed_window_unique = _like(core.partition_unique), _like(core.timed_window_unique)
collect, slice_, zip_latest = _like(core.collect), _like(core.slice), _like(core.zip_latest)
DaskStream.scan = DaskStream.accumulate


# --- before a graph is secured ---


# What a node has Dask workers call, and the attribute that holds the user's function.
_CALLS: dict[type[Stream], tuple[str, Callable[[Any], calls.Call]]] = {
    parallel.map: ("func", lambda node: (node.func, node.args, node.kwargs)),
    parallel.starmap: ("func", lambda node: (dask_calls.star, (node.func, node.kwargs), {})),
    parallel.accumulate: (
        "func",
        lambda node: (dask_calls.step, (node.func, node.kwargs), {"returns_state": node.returns_state}),
    ),
    filter_: ("predicate", lambda node: (dask_calls.truth_of, (node.predicate, node.args, node.kwargs), {})),
    pluck: ("pick", lambda node: (dask_calls.pick, (node.pick,), {})),
    flatten: ("", lambda _: (dask_calls.list_of, (), {})),
    parallel.partition: ("_key", lambda node: (dask_calls.key_of, (node._key,), {})),
    **dict.fromkeys(
        (unique, partition_unique, timed_window_unique), ("key", lambda node: (dask_calls.key_of, (node.key,), {}))
    ),
}


def _refuse_outside(node: Any) -> None:
    """Refuse a node that would get values of Dask workers without `gather`, and one whose functions cannot go there."""
    if not isinstance(node, DaskStream):
        if not isinstance(node, parallel.gather) and any(isinstance(up, DaskStream) for up in node.upstreams):
            msg = (
                f"pipeline node {node!r}: expected elements in this process, got values on Dask workers; put .gather() before "
                "it, or join with the method of a scattered stream: a.zip(b)"
            )
            raise PipelineError(msg)
        return
    if not any(down is not None for down in node.downstreams):
        msg = f"pipeline node {node!r}: expected .gather() behind it: entries would be acknowledged before Dask is done"
        raise PipelineError(msg)
    if made := _CALLS.get(type(node)):
        if type(node) in (parallel.map, parallel.starmap) and has_options(node):
            msg = (
                f"pipeline node {node!r}: expected no `retry` between scatter and gather, got one; repeat within the function, or "
                "put the step behind gather"
            )
            raise PipelineError(msg)
        attribute, call = made
        refuse_kinds(node, getattr(node, attribute, None), frozenset(), _PLAIN_KINDS)
        try:
            node.pickled_call = dumps(call(node), "elsewhere")
        except Exception as error:
            msg = (
                f"pipeline node {node!r}: expected a function that can be pickled, got {error_line(error)}; create what it "
                "uses (connections, locks, files) within the function"
            )
            raise PipelineError(msg) from error


# --- in a secured graph ---


class _Node:
    """What the replaced methods of one node share."""

    def __init__(self, node: Any) -> None:
        secured = node.secured
        if (cluster := _CLUSTERS.get(secured)) is None:
            cluster = _CLUSTERS[secured] = Cluster()
        self.cluster: Cluster = cluster
        self.node, self.number = node, cluster.number(node)
        self._turns = Turns()

    def in_turn(self, work: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
        """Queue work on an element behind that on earlier ones; return an awaitable for it."""
        life = self.cluster.life

        async def when_due() -> list[Any]:
            await self.cluster.outlast(life)
            return await work()

        return self._turns.add(when_due)

    def call(self, element: Any) -> Remote:
        """Have Dask begin the node's call on an element."""
        return self.cluster.begin(Remote(self.node.pickled_call, self.number, element))

    def other_call(self, function: Callable[..., Any], element: Any, *args: Any) -> Remote:
        """Have Dask begin a call of a function of Sluice's."""
        return self.cluster.begin(Remote(dumps((function, args, {})), self.number, element))

    async def result(self, remote: Remote, metadata: Metadata) -> list[Any]:
        """Return a list with the result of a call; an empty one if a call has failed, after that was reported."""
        outcome = await self.cluster.outcome(remote)
        if isinstance(outcome, Failed):
            self.fail(outcome, metadata)
            return []
        return [calls.result_of(outcome)]

    async def has_succeeded(self, element: Any, metadata: Metadata) -> bool:
        """Wait for the calls that an element is made of; return False if one has failed, after that was reported."""
        for remote in remotes_in(element):
            if not remote.is_known:
                if not await self.result(self.other_call(_nothing, remote), metadata):
                    return False
                remote.is_known = True
        return True

    def fail(self, failed: Failed, metadata: Metadata) -> None:
        """Report a failed call as a failure of the node that made it."""
        node = self.cluster.nodes.get(failed.node, self.node)
        try:
            calls.result_of(failed.outcome)
        except BaseException as error:  # noqa: BLE001 - what the function has raised
            self.node.secured.fail(node, metadata, error)


def _nothing(_: Any) -> None:
    """Do nothing, if the call that brings the element has succeeded."""


def _scatter(node: Any, fail: Fail) -> None:  # noqa: ARG001 - a repair's signature
    """It let go of an element before its task had run; and Dask loses what it scatters to a worker with that worker."""
    of = _Node(node)

    def update(x: Any, who: Any = None, metadata: Metadata = None) -> list[Any]:  # noqa: ARG001
        return node._emit(Remote.of_outcome(calls.OK + dumps(x, "elsewhere")), metadata=metadata)

    node.update, node.before_start, node.after_end = update, of.cluster.open, of.cluster.close


def _map(node: Any, fail: Fail) -> None:  # noqa: ARG001
    """A failed task failed all that waited for it."""
    of = _Node(node)

    def update(x: Any, who: Any = None, metadata: Metadata = None) -> list[Any]:  # noqa: ARG001
        return node._emit(of.call(x), metadata=metadata)

    node.update = update


def _filter(node: Any, fail: Fail) -> None:  # noqa: ARG001
    """It called its predicate with a future."""
    of = _Node(node)

    async def work(x: Any, metadata: Metadata) -> list[Any]:
        for is_wanted in await of.result(of.call(x), metadata):
            if is_wanted:
                return node._emit(x, metadata=metadata)
        return []

    node.update = _in_turn(of, work)


def _flatten(node: Any, fail: Fail) -> None:  # noqa: ARG001
    """It iterated a future."""
    of = _Node(node)

    async def work(x: Any, metadata: Metadata) -> list[Any]:
        items, emitted = of.call(x), list[Any]()
        leads_back = leads_to(node, node)
        for length in await of.result(of.other_call(dask_calls.length_of, items), metadata):
            for place in range(length):
                emitted += node._emit(of.other_call(dask_calls.item_of, items, place), metadata=metadata)
                while emitted and not leads_back:
                    await emitted.pop(0)
        return emitted

    node.update = _in_turn(of, work)


def _accumulate(node: Any, fail: Fail) -> None:  # noqa: ARG001
    """A failed task failed all later ones. And Dask keeps all tasks since the first, to make a lost state again.

    So the state is in this process, and goes to a worker with each element.
    """
    of = _Node(node)
    state: list[bytes] = []
    if node.state is not core.no_default:
        state.append(calls.OK + dumps(node.state, "elsewhere"))

    async def work(x: Any, metadata: Metadata) -> list[Any]:
        call = of.call((Remote.of_outcome(state[0]), x)) if state else of.other_call(_pickled, x)
        for outcomes in await of.result(call, metadata):
            state[:] = outcomes[:1]
            result = Remote.of_outcome(outcomes[-1])
            emitted = (Remote.of_outcome(state[0]), result) if node.with_state else result
            return node._emit(emitted, metadata=metadata)
        return []

    def get_state() -> Any:
        return calls.result_of(state[0]) if state else node.state

    def set_state(value: Any) -> None:
        state[:] = [calls.OK + dumps(value, "elsewhere")]

    node.update, node.get_state, node.set_state = _in_turn(of, work), get_state, set_state


def _pickled(x: Any) -> list[bytes]:
    return [calls.OK + dumps(x, "elsewhere")]


def _gather(node: Any, fail: Fail) -> None:  # noqa: ARG001
    """It ended the loop of a `buffer` before it if a task had failed."""
    of = _Node(node)

    async def work(x: Any, metadata: Metadata) -> list[Any]:
        inputs: list[bytes] = []
        for remote in remotes_in(x):
            outcome = await of.cluster.outcome(remote)
            if isinstance(outcome, Failed):
                of.fail(outcome, metadata)
                return []
            inputs.append(outcome)
        return node._emit(_filled(x, iter(inputs)), metadata=metadata)

    node.update = _in_turn(of, work)


def _filled(element: Any, outcomes: Any) -> Any:
    if isinstance(element, Remote):
        return calls.result_of(next(outcomes))
    kind = type(element)
    return kind(_filled(each, outcomes) for each in element) if kind in (tuple, list) else element


def _waits(plain: type[Stream], key: str | None = None, *, keeps: bool = True) -> Callable[[Any, Fail], None]:
    """Return the repair of a node that combines or counts elements: only those whose calls have succeeded come to it.

    key     the attribute with its key function, which a worker calls
    keeps   whether it keeps elements for later ones
    """

    def repair(node: Any, fail: Fail) -> None:
        """It combined futures of calls that fail later; and it called its key function with a future."""
        of = _Node(node)
        of_element: list[Any] = [None]
        has_key = key is not None and getattr(node, key) is not None
        if key is not None and has_key:
            setattr(node, key, lambda _: of_element[0])
        if base := REPAIRS.get(plain):
            base(node, fail)
        update = node.update

        async def work(x: Any, metadata: Metadata, who: Any) -> list[Any]:
            if has_key:
                found = await of.result(of.call(x), metadata)
                if not found:
                    return []
                of_element[:] = found
            elif not await of.has_succeeded(x, metadata):
                return []
            return _listed(update(x, who=who, metadata=metadata))

        def in_turn(x: Any, who: Any = None, metadata: Metadata = None) -> list[Any]:
            return of.in_turn(functools.partial(work, x, metadata, who))

        node.update = in_turn
        _keep_state(node, keeps=keeps)

    return repair


def _keep_state(node: Any, *, keeps: bool) -> None:
    """Give a node what kept state needs: its state, or the reason why there is none."""
    if type(node) is slice_:
        node.get_state, node.set_state = lambda: node.state, functools.partial(setattr, node, "state")
    elif type(node) is unique:
        node.get_state = lambda: list(getattr(node.seen, "order", node.seen))
        node.set_state = functools.partial(_set_seen, node)
    elif keeps:
        node.cannot_keep = (
            "the elements that this one keeps are on Dask workers: put it behind gather, or use keep_state=False"
        )


def _set_seen(node: Any, keys: list[Any]) -> None:
    if isinstance(node.seen, list):
        node.seen[:] = keys
    else:
        node.seen.update(dict.fromkeys(keys, 1))


def _passes(plain: type[Stream]) -> Callable[[Any, Fail], None]:
    """Return the repair of a node that only passes elements on."""

    def repair(node: Any, fail: Fail) -> None:
        if base := REPAIRS.get(plain):
            base(node, fail)

    return repair


def _in_turn(of: _Node, work: Callable[..., Any]) -> Callable[..., list[Any]]:
    def update(x: Any, who: Any = None, metadata: Metadata = None) -> list[Any]:  # noqa: ARG001
        return of.in_turn(functools.partial(work, x, metadata))

    return update


def _listed(waiting: Any) -> list[Any]:
    if waiting is None:
        return []
    return [each for one in waiting for each in _listed(one)] if isinstance(waiting, list) else [waiting]


_KEEPING = {
    parallel.combine_latest: core.combine_latest, parallel.sliding_window: core.sliding_window, zip_latest: core.zip_latest,
    parallel.timed_window: core.timed_window, parallel.zip: core.zip, collect: core.collect,
}  # fmt: skip
_KEYED = {
    parallel.partition: (core.partition, "_key"),
    partition_unique: (core.partition_unique, "key"),
    timed_window_unique: (core.timed_window_unique, "key"),
}
_LOOPING = {parallel.buffer, parallel.timed_window, timed_window_unique}

REPAIRS.update({
    parallel.scatter: _scatter, parallel.gather: _gather, parallel.map: _map, parallel.starmap: _map, pluck: _map,
    filter_: _filter, flatten: _flatten, parallel.accumulate: _accumulate, unique: _waits(core.unique, "key", keeps=False),
    slice_: _waits(core.slice, keeps=False), parallel.latest: _waits(core.latest, keeps=False),
    **{kind: _passes(plain) for kind, plain in (
        (parallel.buffer, core.buffer), (parallel.delay, core.delay), (parallel.rate_limit, core.rate_limit),
        (parallel.union, core.union))},
    **{kind: _waits(plain) for kind, plain in _KEEPING.items()},
    **{kind: _waits(plain, key) for kind, (plain, key) in _KEYED.items()},
})  # fmt: skip
for each in REPAIRS:
    if each.__module__ in (parallel.__name__, __name__):
        trust(
            each,
            keeps=each in _KEEPING or each in _KEYED,
            loops=each in _LOOPING,
            accumulates=each is parallel.accumulate,
        )
add_check(_refuse_outside)
