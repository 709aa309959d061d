"""What nodes for windows have in common: windows of elements, and aggregations in their place."""

import datetime as dt
from collections.abc import Callable
from typing import Any, NamedTuple, Self

from tasks.errors import SettingsError
from tasks.nodes.event_time import EventTimeNode
from tasks.windows.aggregation import Aggregation, aggregations, entry_aggregator

__all__ = ["Window", "WindowNode"]


class Window(NamedTuple):
    """The elements of one window and key, in the order of their event times.

    start, end   the window's bounds; `end` does not belong to it
    """

    key: Any
    start: dt.datetime
    end: dt.datetime
    elements: list[Any]


class WindowNode(EventTimeNode):
    """A node that emits windows, or after `agg` their aggregations."""

    aggregated: list[Aggregation] | None = None
    aggregations: list[Any] | None = None
    """The aggregations as the fingerprint of the stored state has them."""
    _add: Callable[..., Any] | None = None

    def agg(self, **named: Any) -> Self:
        """Emit aggregations instead of elements; the node then keeps a few numbers for each window and key.

        named    name=(field, aggregation), or name=aggregation for elements that are values. Aggregations are those of pandas: first,
                 last, max, min, sum, mean, count. Missing values are skipped; first and last are by event time
        emits    for entries a dict for each window and key: the fields of the key, start, end and the values. For frames one frame for
                 each window, with the keys as its index
        raises   SettingsError: another aggregation, or a node is connected already
        """
        if self.aggregated is not None or len(self.downstreams):
            msg = f"{self!r}: expected agg() once, right behind {type(self).__name__}()"
            raise SettingsError(msg)
        self.aggregated = aggregations(named)
        self.aggregations = [list(one) for one in self.aggregated]
        self._add = entry_aggregator(self.aggregated)
        return self
