"""How long a graph lives: its sinks, and the loops of its timed nodes, for as long as one of its sources runs.

streamz keeps every sink for ever in a set of its own, and with it the graph, its sources and their connections; and the
loop of a `timed_window` never ends. After the last source has ended, its graph is kept by its sources only: it can be
started again, and is collected with them.
"""

from functools import partial
from typing import Any

from streamz import Stream
from streamz.sinks import Sink, _global_sinks
from streamz.sources import Source

from tasks.pipeline.graphs import graph

__all__ = ["begin", "end"]


def begin(source: Stream) -> None:
    """Keep the graph of a source that starts, and have its timed nodes work."""
    found: list[Any] = list(graph(source))
    for node in found:
        if isinstance(node, Sink):
            _global_sinks.add(node)
            vars(node).pop("destroy", None)
    if secured := getattr(source, "secured", None):
        secured.begin()


def end(source: Stream) -> None:
    """Let go of the graph of a source that has ended, if none of its other sources runs."""
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
    """Return whether elements may come into the graph by this node."""
    if isinstance(node, Source):
        return getattr(node, "is_running", not node.stopped)
    return not node.upstreams  # a `Stream()`, into which anybody may put elements


def _destroy(sink: Any) -> None:
    """Destroy a sink that streamz, which takes it out of its set, keeps no more."""
    _global_sinks.add(sink)
    type(sink).destroy(sink)
