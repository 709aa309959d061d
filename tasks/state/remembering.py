"""The state that each type of node remembers and a cut stores.

Two kinds of nodes remember. What lasting nodes remember (`accumulate`, `unique`, `slice`, keyed states) cannot be rebuilt from
pending entries: a graph with one of them keeps its state. Windows and joins keep single elements; in a graph that keeps its
state, these are stored, too.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from streamz import Stream
from streamz import core as nodes

from tasks.errors import PipelineError
from tasks.state.memory import Cells, Ghosts, Keyed, Memory, Seen, Whole, as_metadata, as_origins

__all__ = ["keeps_state", "memories", "remembers"]

Make = Callable[[Any, str], Memory]
"""Returns the memory of a node with a fingerprint."""

_MAKERS: dict[type[Stream], tuple[Make, tuple[str, ...]]] = {}
_LASTING: set[type[Stream]] = set()
"""The types of nodes whose state is not in pending entries."""


def remembers(
    node_type: type[Stream], make: Make, *, parameters: Iterable[str] = (), lasts: bool = False
) -> type[Stream]:
    """Have the state of all nodes of a type stored.

    make         returns the memory of one node
    parameters   names of attributes whose values must match for the stored state to make sense
    lasts        whether the state cannot be rebuilt from pending entries
    """
    _MAKERS[node_type] = make, tuple(parameters)
    if lasts:
        _LASTING.add(node_type)
    return node_type


def keeps_state(reachable: Iterable[Stream]) -> bool:
    """Return whether a graph has a node whose state pending entries cannot rebuild.

    raises    PipelineError: it has one, and elements come from further sources, which cannot be redelivered, or a node keeps elements
              that cannot be stored: such a node states the reason in its attribute `cannot_keep`
    """
    found = list(reachable)
    lasting = [node for node in found if type(node) in _LASTING or _is_own(node)]
    if not lasting:
        return False
    if len(sources := [node for node in found if not node.upstreams]) > 1:
        msg = (
            f"expected one source in a pipeline whose state is kept ({', '.join(map(repr, lasting))}), got {len(sources)}: only entries "
            "of a topic can be redelivered; read all topics with one from_redis, or use keep_state=False"
        )
        raise PipelineError(msg)
    for node in found:
        if why := getattr(node, "cannot_keep", None):
            msg = f"node {node!r}: expected a node whose elements can be stored with the state of {lasting[0]!r}, but {why}"
            raise PipelineError(msg)
    return True


def memories(reachable: Iterable[Stream]) -> list[Memory]:
    """Return the memory of each node of a guarded graph that remembers something.

    A node of a type of the user's own takes part with two methods: `get_state()` returns its state, and `set_state(state)`
    sets it.

    raises    PipelineError: two nodes cannot be distinguished by their names
    """
    remembering = [node for node in reachable if type(node) in _MAKERS or _is_own(node)]
    bases = Counter(_base(node) for node in remembering)
    found: dict[tuple[str, str], Memory] = {}
    for n, node in enumerate(remembering):
        base, fingerprint = _base(node), _fingerprint(node, is_alone=bases[_base(node)] == 1)
        # Windows and joins of one description, behind the same nodes, hold the same.
        is_ambiguous = type(node) in _LASTING or "<lambda>" in fingerprint
        if is_ambiguous and (twin := found.get((base, fingerprint))):
            msg = (
                f"nodes {twin.name!r} and {node.meter.name!r}: expected names that tell nodes with a state apart, got names by their "
                "order, which another version of the pipeline may change; give each a name of its own, stream_name='...'"
            )
            raise PipelineError(msg)
        found[(base, fingerprint) if is_ambiguous else (base, str(n))] = _memory(node, fingerprint)
    return list(found.values())


def _base(node: Any) -> str:
    """Return the name of a node without its number among nodes of the same name."""
    return node.meter.name.partition("#")[0]


def _memory(node: Any, fingerprint: str) -> Memory:
    if maker := _MAKERS.get(type(node)):
        return maker[0](node, fingerprint)
    return Whole(node, fingerprint, get=node.get_state, put=node.set_state)


def _is_own(node: Any) -> bool:
    return callable(getattr(node, "get_state", None)) and callable(getattr(node, "set_state", None))


def _fingerprint(node: Any, *, is_alone: bool) -> str:
    """Return what must be the same for a stored state to be this node's.

    A node that shares the name of its function with others is also known by the nodes before it.
    """
    parameters = _MAKERS[type(node)][1] if type(node) in _MAKERS else ()
    about: dict[str, Any] = {"type": type(node).__name__}
    about |= {name: _plain(_parameter(node, name)) for name in parameters}
    if str(getattr(getattr(node, "func", None), "__module__", "")).startswith("streamz."):
        about["of"] = _plain(node.kwargs)  # the aggregation of a streaming dataframe
    if not is_alone:
        about["after"] = [_described(each) for each in _before(node)]
    return json.dumps(about, sort_keys=True)


def _parameter(node: Any, name: str) -> Any:
    """Return a parameter of a node, also the one that streamz' `unique` has only the effect of."""
    return not isinstance(node.seen, list) if name == "is_hashable" else getattr(node, name)


def _plain(value: Any) -> Any:
    """Return a parameter as JSON has it: numbers and text as they are, anything else by its type."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return getattr(value, "__name__", type(value).__name__)


def _described(node: Any) -> str:
    function = getattr(node, "func", None) or getattr(node, "predicate", None) or getattr(node, "pick", "")
    arguments = [_plain(getattr(node, "args", ())), _plain(getattr(node, "kwargs", {}))]
    return f"{type(node).__name__}({_plain(function)}, {arguments})"


def _before(node: Any) -> list[Any]:
    """Return the nodes between the source and a node, from near to far; in front of a join, those of all sides."""
    found, queue = [], list(node.upstreams)
    while queue:
        each = queue.pop(0)
        if each is not None and each not in found and each.upstreams:
            found.append(each)
            queue += each.upstreams
    return found


# --- lasting ---


def _accumulated(node: Any, fingerprint: str) -> Memory:
    return Whole(
        node, fingerprint, get=lambda: node.state, put=partial(setattr, node, "state"), absent=nodes.no_default
    )


def _count(node: Any, fingerprint: str) -> Memory:
    return Whole(node, fingerprint, get=lambda: node.state, put=partial(setattr, node, "state"))


def _unique(node: Any, fingerprint: str) -> Memory:
    if isinstance(node.seen, list):
        return Whole(node, fingerprint, get=lambda: node.seen, put=partial(setattr, node, "seen"))
    if not node.maxsize:
        return Seen(node, fingerprint)

    def put(keys: list[Any]) -> None:
        for key in keys:
            node.seen[key] = 1

    return Whole(node, fingerprint, get=lambda: list(node.seen.order), put=put)


def keyed(node: Any, fingerprint: str) -> Memory:
    """Return the memory of a node that has a state for each key: see `Keyed`."""
    return Keyed(node, fingerprint)


# --- windows and joins ---


def _held(node: Any, origins: Any, ghosts: Ghosts) -> list[dict[str, Any]]:
    """Return metadata of stored elements, held by the node."""
    node._retain_refs(metadata := as_metadata(origins, ghosts))
    return metadata


def _get_window(node: Any) -> tuple[Any, list[Any]]:
    return [as_origins(each) for each in node.metadata_buffer], list(node._buffer)


def _put_window(node: Any, layout: Any, elements: list[Any], ghosts: Ghosts) -> None:
    node._buffer.extend(elements)
    node.metadata_buffer.extend(_held(node, origins, ghosts) for origins in layout)


def _get_unique_window(node: Any) -> tuple[Any, list[Any]]:
    layout = [(key, as_origins(node._metadata_buffer[key])) for key in node._buffer]
    return layout, list(node._buffer.values())


def _put_unique_window(node: Any, layout: Any, elements: list[Any], ghosts: Ghosts) -> None:
    for (key, origins), element in zip(layout, elements, strict=True):
        node._buffer[key], node._metadata_buffer[key] = element, _held(node, origins, ghosts)


def _get_partitions(node: Any) -> tuple[Any, list[Any]]:
    kept = {key: elements for key, elements in node._buffer.items() if elements}
    layout = [(key, len(elements), as_origins(node._metadata_buffer[key])) for key, elements in kept.items()]
    return layout, [element for elements in kept.values() for element in elements]


def _put_partitions(node: Any, layout: Any, elements: list[Any], ghosts: Ghosts) -> None:
    left = iter(elements)
    for key, number, origins in layout:
        node._buffer[key] = [next(left) for _ in range(number)]
        node._metadata_buffer[key] = _held(node, origins, ghosts)
        if node._timeout is not None:
            node._callbacks[key] = node.loop.call_later(node._timeout, node._flush, key)


def _get_collected(node: Any) -> tuple[Any, list[Any]]:
    return as_origins(node.metadata_cache), list(node.cache)


def _put_collected(node: Any, layout: Any, elements: list[Any], ghosts: Ghosts) -> None:
    node.cache.extend(elements)
    node.metadata_cache.extend(_held(node, layout, ghosts))


def _get_zipped(node: Any) -> tuple[Any, list[Any]]:
    sides = [node.buffers[up] for up in node.upstreams]
    layout = [[as_origins(metadata) for _, metadata in side] for side in sides]
    return layout, [element for side in sides for element, _ in side]


def _put_zipped(node: Any, layout: Any, elements: list[Any], ghosts: Ghosts) -> None:
    left = iter(elements)
    for up, side in zip(node.upstreams, layout, strict=True):
        node.buffers[up].extend((next(left), _held(node, origins, ghosts)) for origins in side)


def _get_latest_of_each(node: Any) -> tuple[Any, list[Any]]:
    """The latest element of each side that has had one. zip_latest has let go of the one of its lossless side."""
    layout, elements = [], []
    for up, element, metadata in zip(node.upstreams, node.last, node.metadata, strict=True):
        is_held = up is not getattr(node, "lossless", None)
        if up in node.missing:
            layout.append(None)
        else:
            layout.append(as_origins(metadata) if is_held else [])
            elements.append(element)
    waiting = getattr(node, "lossless_buffer", ())
    return (layout, [as_origins(metadata) for _, metadata in waiting]), [*elements, *(x for x, _ in waiting)]


def _put_latest_of_each(node: Any, layout: Any, elements: list[Any], ghosts: Ghosts) -> None:
    left = iter(elements)
    sides, waiting = layout
    for n, (up, origins) in enumerate(zip(node.upstreams, sides, strict=True)):
        if origins is not None:
            node.last[n], node.metadata[n] = next(left), _held(node, origins, ghosts)
            node.missing.discard(up)
    for origins in waiting:
        node.lossless_buffer.append((next(left), _held(node, origins, ghosts)))


def _cells(get: Any, put: Any) -> Make:
    return partial(Cells, get=get, put=put)


remembers(nodes.accumulate, _accumulated, parameters=["returns_state", "with_state"], lasts=True)
remembers(nodes.slice, _count, parameters=["star", "end", "step"], lasts=True)
remembers(nodes.unique, _unique, parameters=["maxsize", "is_hashable"], lasts=True)
remembers(nodes.sliding_window, _cells(_get_window, _put_window), parameters=["n", "partial"])
remembers(nodes.timed_window, _cells(_get_window, _put_window))
remembers(nodes.partition, _cells(_get_partitions, _put_partitions), parameters=["n"])
remembers(nodes.partition_unique, _cells(_get_unique_window, _put_unique_window), parameters=["n", "keep"])
remembers(nodes.timed_window_unique, _cells(_get_unique_window, _put_unique_window), parameters=["keep"])
remembers(nodes.collect, _cells(_get_collected, _put_collected))
remembers(nodes.zip, _cells(_get_zipped, _put_zipped))
remembers(nodes.combine_latest, _cells(_get_latest_of_each, _put_latest_of_each))
remembers(nodes.zip_latest, _cells(_get_latest_of_each, _put_latest_of_each))
