"""What nodes for windows have in common: windows of elements, and aggregations in their place."""

import datetime as dt
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self, Unpack

from streamz import Stream

from tasks.errors import SettingsError
from tasks.nodes.event_time import EventTimeNode, EventTimeOptions, moment
from tasks.windows.aggregation import Aggregation, aggregations, entry_aggregator

__all__ = ["MarkedWindow", "Window", "WindowNode"]

ClosedBy = Literal["event_time", "clock"]


class Window(NamedTuple):
    """The elements of one window and key, in the order of their event times.

    start, end   the window's bounds; `end` does not belong to it
    """

    key: Any
    start: dt.datetime
    end: dt.datetime
    elements: list[Any]


class MarkedWindow(NamedTuple):
    """A window that shows what has closed it: see `closed_by` of `time_window`."""

    key: Any
    start: dt.datetime
    end: dt.datetime
    elements: list[Any]
    closed_by: ClosedBy


class WindowNode(EventTimeNode):
    """A node that emits windows, or after `agg` their aggregations.

    closed_by    whether these show what has closed the window
    """

    aggregated: list[Aggregation] | None = None
    aggregations: list[Any] | None = None
    """The aggregations as the fingerprint of the stored state has them."""
    _add: Callable[..., Any] | None = None

    def __init__(self, upstream: Stream, *, closed_by: bool = False, **options: Unpack[EventTimeOptions]) -> None:
        self.closed_by = closed_by
        super().__init__([upstream], **options)

    def _named_bounds(self, start: int, end: int) -> dict[str, Any]:
        """Return the fields that describe a window which is emitted now; its bounds are in ms."""
        bounds: dict[str, Any] = {"start": moment(start, self.zone), "end": moment(end, self.zone)}
        if self.closed_by:
            bounds["closed_by"] = "event_time" if end <= self.watermark.by_events else "clock"
        return bounds

    def _window(self, key: Any, bounds: dict[str, Any], elements: list[Any]) -> Window | MarkedWindow:
        """Return a window of elements."""
        start, end = bounds["start"], bounds["end"]
        if self.closed_by:
            return MarkedWindow(key, start, end, elements, bounds["closed_by"])
        return Window(key, start, end, elements)

    def agg(self, **named: Any) -> Self:
        """Emit aggregations instead of elements; the node then keeps a few numbers for each window and key.

        named    name=(field, aggregation), or name=aggregation for elements that are values. Aggregations are those of pandas: first,
                 last, max, min, sum, mean, count. Missing values are skipped; first and last are by event time
        emits    for entries a dict for each window and key: the fields of the key, start, end, `closed_by` if it was asked for, and
                 the values. For frames one frame for each window, with the keys as its index
        raises   SettingsError: another aggregation, or a node is connected already
        """
        if self.aggregated is not None or len(self.downstreams):
            msg = f"{self!r}: expected agg() once, right behind {type(self).__name__}()"
            raise SettingsError(msg)
        self.aggregated = aggregations(named)
        self.aggregations = [list(one) for one in self.aggregated]
        self._add = entry_aggregator(self.aggregated)
        return self
