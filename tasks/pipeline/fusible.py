"""The node types that can be in fused runs (`tasks.pipeline.fusion`), and what they have for it."""

from typing import Any

from streamz import Stream
from streamz import core as nodes
from streamz.sinks import sink

__all__ = ["NOTHING", "can_continue", "can_end", "ends_runs", "fusible"]

NOTHING: Any = object()
"""What `work` returns if the node emits nothing."""

_CONTINUING: set[type[Stream]] = {
    nodes.map, nodes.starmap, nodes.pluck, nodes.filter, nodes.accumulate, nodes.slice, nodes.unique,
}  # fmt: skip
_ENDING: set[type[Stream]] = {sink}


def fusible(node_type: type[Stream]) -> type[Stream]:
    """Admit a node type to fused runs; usable as a decorator.

    The node has `work(x, metadata)`, which returns what to emit for an element, or NOTHING. The element must be done when it returns:
    nothing is kept of the metadata, and nothing is left to await. The metadata may be `LazyReceipts`.
    """
    _CONTINUING.add(node_type)
    return node_type


def ends_runs(node_type: type[Stream]) -> type[Stream]:
    """Admit a node type as the last one of fused runs; usable as a decorator.

    The `update` of its class takes `LazyReceipts`, too, and applies `in_full` to metadata that it keeps or passes on.
    """
    _ENDING.add(node_type)
    return node_type


def can_continue(node: Stream) -> bool:
    """Return whether a node can be anywhere in a run.

    Nodes with several upstreams cannot, because their guard counts elements by origin; nor nodes that emit later.
    """
    return type(node) in _CONTINUING and len(node.upstreams) == 1 and not _may_emit_later(node)


def can_end(node: Stream) -> bool:
    """Return whether a node can be the last one of a run."""
    return can_continue(node) or (type(node) in _ENDING and len(node.upstreams) == 1 and not _may_emit_later(node))


def _may_emit_later(node: Stream) -> bool:
    """Return whether a node awaits results, or tries failed calls again."""
    return getattr(node, "awaits", False) or getattr(node, "retries", False)
