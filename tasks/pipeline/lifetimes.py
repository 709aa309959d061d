"""Lifetime of a graph: its sinks and timers live as long as one of its sources runs.

streamz keeps every sink in a global set forever, and through it the graph, its sources and their connections; the loop
of a `timed_window` never ends. After the last source has ended, only the sources refer to the graph: it can be started
again, and is garbage-collected with them.
"""

from functools import partial
from typing import Any

from streamz import Stream
from streamz.sinks import Sink, _global_sinks
from streamz.sources import Source

from tasks.pipeline.graphs import graph

__all__ = ["begin", "end"]


def begin(source: Stream) -> None:
    """Keep a starting source's graph alive, and restart its timed nodes."""
    found: list[Any] = list(graph(source))
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
    sinks = [node for node in found if node in _global_sinks]
    for sink in sinks:
        _global_sinks.discard(sink)
        sink.destroy = partial(_destroy, sink)
    for node in found:
        if isinstance(node, Source):
            node.kept_sinks = sinks  # type: ignore[attr-defined]
    if secured := getattr(source, "secured", None):
        secured.end()


def _is_in_use(node: Any) -> bool:
    """Return whether elements may enter the graph at this node."""
    if isinstance(node, Source):
        return getattr(node, "is_running", not node.stopped)
    return not node.upstreams  # a plain `Stream()`, on which any code may call `emit`


def _destroy(sink: Any) -> None:
    """Destroy a sink that was removed from streamz' set: streamz' `destroy` expects to find it there."""
    _global_sinks.add(sink)
    type(sink).destroy(sink)
