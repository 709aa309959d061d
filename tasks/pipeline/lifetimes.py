"""Lifetime of a graph: its sinks and timers live as long as one of its sources runs.

streamz keeps every sink in a global set forever, and through it the graph, its sources and their connections; the loop
of a `timed_window` never ends. After the last source has ended, only the sources refer to the graph: it can be started
again, and is garbage-collected with them.

A node that starts something of its own, such as processes, does so in `before_start` and ends it in `after_end`.
"""

from functools import partial
from typing import Any

from streamz import Stream
from streamz.sinks import Sink, _global_sinks
from streamz.sources import Source

from tasks.pipeline.graphs import graph

__all__ = ["begin", "end"]


def begin(source: Stream) -> None:
    """Keep a starting source's graph alive, and restart its timed nodes.

    raises    PipelineError: a node cannot start what it needs; nothing stays started
    """
    found: list[Any] = list(graph(source))
    try:
        _call_each(found, "before_start")
    except BaseException:
        if not any(_is_in_use(node) for node in found):
            _call_each(found, "after_end")
        raise
    for node in found:
        if isinstance(node, Sink):
            _global_sinks.add(node)
            vars(node).pop("destroy", None)
    if secured := getattr(source, "secured", None):
        secured.begin()


def end(source: Stream) -> None:
    """Release the graph of a source that has ended, unless another of its sources still runs."""
    found: list[Any] = list(graph(source))
    if any(_is_in_use(node) for node in found):
        return
    _call_each(found, "after_end")
    sinks = [node for node in found if node in _global_sinks]
    for sink in sinks:
        _global_sinks.discard(sink)
        sink.destroy = partial(_destroy, sink)
    for node in found:
        if isinstance(node, Source):
            node.kept_sinks = sinks  # type: ignore[attr-defined]
    if secured := getattr(source, "secured", None):
        secured.end()


def _call_each(found: list[Any], method: str) -> None:
    """Call a method of all nodes that have it. A second call of the same one changes nothing."""
    for node in found:
        if call := getattr(node, method, None):
            call()


def _is_in_use(node: Any) -> bool:
    """Return whether elements may enter the graph at this node."""
    if isinstance(node, Source):
        return getattr(node, "is_running", not node.stopped)
    return not node.upstreams  # a plain `Stream()`, on which any code may call `emit`


def _destroy(sink: Any) -> None:
    """Destroy a sink that was removed from streamz' set: streamz' `destroy` expects to find it there."""
    _global_sinks.add(sink)
    type(sink).destroy(sink)
