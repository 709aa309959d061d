"""Nodes that emit because time passes, by the ids of entries: when they do so next, and how they learn of the time."""

from collections.abc import Iterable
from typing import Any

from streamz import Stream

from tasks.pipeline.graphs import nodes_above

__all__ = ["TimedNodes"]


class TimedNodes:
    """The nodes of a graph that have `due` and `pass_time`. The graph's thread.

    A node's `due` is the next time, in ms since the epoch, at which it may emit without another element; None: never. Its
    `pass_time(ms)` emits what is due up to then and returns awaitables. It is called when no entry whose id is older can come.
    """

    def __init__(self, reachable: Iterable[Stream]) -> None:
        self._nodes: list[Any] = _upstream_first([node for node in reachable if hasattr(node, "pass_time")])

    def __bool__(self) -> bool:
        return bool(self._nodes)

    @property
    def due(self) -> int | None:
        """The next time at which any node may emit."""
        return min((due for node in self._nodes if (due := node.due) is not None), default=None)

    @property
    def meet(self) -> bool:
        """Whether there are several: what they emit may meet in a node behind them."""
        return len(self._nodes) > 1

    async def pass_time(self, ms: int) -> None:
        """Have nodes emit what is due, in the order of the times at which it is due, then each before those behind it.

        So nodes side by side emit in the same order, however far time has passed since the last call.
        """
        while (at := self.due) is not None and at <= ms:
            for node in self._nodes:
                if (due := node.due) is not None and due <= at:
                    for one in node.pass_time(at):
                        await one


def _upstream_first(nodes: list[Any]) -> list[Any]:
    """Return nodes in an order in which each comes after all that lead to it."""
    above = {node: nodes_above(node) for node in nodes}
    return sorted(nodes, key=lambda node: sum(other in above[node] for other in nodes))
