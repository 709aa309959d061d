"""Graphs of streamz nodes: how to walk one, and how to notice changes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from streamz import Stream
from streamz.orderedweakset import OrderedSet

__all__ = ["Watched", "graph", "leads_to", "nodes_above"]


def graph(start: Stream) -> Iterator[Stream]:
    """Yield every node connected with `start`, upstream or downstream, once each and `start` first."""
    seen, queue = {start}, [start]
    while queue:
        node = queue.pop(0)
        yield node
        for other in [*node.downstreams, *node.upstreams]:
            if other is not None and other not in seen:
                seen.add(other)
                queue.append(other)


def leads_to(start: Stream, end: Stream) -> bool:
    """Return whether an element that `start` emits can reach `end`."""
    seen, queue = set(), [start]
    while queue:
        following = [node for node in queue.pop().downstreams if node not in seen]
        if end in following:
            return True
        seen.update(following)
        queue += following
    return False


def nodes_above(node: Any) -> set[Any]:
    """Return all nodes that lead to a node."""
    found, queue = set(), [node]
    while queue:
        for up in queue.pop().upstreams:
            if up is not None and up not in found:
                found.add(up)
                queue.append(up)
    return found


class Watched(OrderedSet):
    """References to a node's downstream nodes, with a call before each addition and after each change."""

    def __init__(self, values: Iterable[Any], *, before: Callable[[Stream], None], after: Callable[[], None]) -> None:
        super().__init__(values)
        self._before, self._after = before, after

    def add(self, value: Any) -> None:
        """Add a reference."""
        self._before(value())
        super().add(value)
        self._after()

    def discard(self, value: Any) -> None:
        """Remove a reference, if present."""
        super().discard(value)
        self._after()
