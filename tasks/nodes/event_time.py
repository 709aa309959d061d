"""What nodes that work in event time have in common: times and positions of elements, and emissions that time causes."""

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, Literal, TypedDict
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd
from streamz import Stream

from tasks.base.fatal import ends_run
from tasks.base.ids import id_numbers
from tasks.base.logs import get_logger
from tasks.base.repeated_warnings import Repeated
from tasks.checks import check_choice
from tasks.errors import SettingsError
from tasks.pipeline.awaiting import PLAIN, expect_plain
from tasks.pipeline.part_letters import part_letter
from tasks.pipeline.receipts import LazyReceipts, Metadata, event_time, in_full, receipts
from tasks.reservoir.keys import derived_from
from tasks.windows.durations import Duration, milliseconds
from tasks.windows.times import TimeOf, column, times_of_rows, value_time
from tasks.windows.watermark import NEVER, Watermark

__all__ = ["PROGRESS", "EventTimeNode", "EventTimeOptions", "moment", "named_key", "zone_of"]

logger = get_logger(__name__)

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

Key = Callable[[Any], Hashable] | Hashable | list[Hashable]

PROGRESS = None
"""The key under which a node's watermark is stored; all others are tuples."""


def zone_of(name: str | ZoneInfo | None) -> ZoneInfo | None:
    """Return a time zone by its name.

    raises    SettingsError: there is none of this name
    """
    if name is None or isinstance(name, ZoneInfo):
        return name
    with suppress(ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        return ZoneInfo(name)
    msg = f"tz: expected the name of a time zone such as 'Asia/Shanghai', got {name!r}"
    raise SettingsError(msg)


def moment(ms: int, zone: ZoneInfo | None) -> dt.datetime:
    """Return a time in ms since the epoch as a datetime in a zone, or in UTC."""
    return (_EPOCH + dt.timedelta(milliseconds=ms)).astimezone(zone or dt.UTC)


def named_key(key: Any, value: Any) -> dict[str, Any]:
    """Return the fields of a key that a node was given as `key`."""
    if key is None:
        return {}
    if isinstance(key, list):
        return dict(zip(map(str, key), value, strict=True))
    return {"key" if callable(key) else str(key): value}


def _known(key: Any) -> Any:
    """Return a key; None for all missing ones (None, NaN, NA, NaT), which are one key, as in pandas."""
    return None if key is pd.NA or key != key else key  # noqa: PLR0124 - NaN and NaT


class EventTimeOptions(TypedDict, total=False):
    """The options that all nodes of event time have: see `time_window`. `EventTimeNode` has their defaults."""

    by: TimeOf | None
    key: Key | None
    lateness: Duration | None
    late: Literal["dead_letter", "drop", "update"]
    close_after: Duration | None
    max_ahead: Duration
    tz: str | ZoneInfo | None
    stream_name: str | None


class EventTimeNode(Stream, ABC):
    """A node whose emissions depend on event times, and on nothing else: see `tasks.windows.watermark`.

    The graph's thread calls `pass_time` when no entry with an id below some time can come any more.

    by            the time of an element: a field, a function of the element, or None, the event time of its entry
    key           a field, a list of fields, a function of an element, or None
    lateness, close_after   of the watermark
    late          what happens to late elements: one of `late_policies`
    max_ahead     an element that is further ahead of its position fails, and does not move the watermark
    tz            the zone of times without one
    """

    late_policies: tuple[str, ...] = ("dead_letter", "drop")

    def __init__(
        self,
        upstreams: list[Stream],
        *,
        by: TimeOf | None = None,
        key: Key | None = None,
        lateness: Duration | None = None,
        late: str = "dead_letter",
        close_after: Duration | None = "10s",
        max_ahead: Duration = "5min",
        tz: str | ZoneInfo | None = None,
        stream_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice(late, self.late_policies, name="late")
        self.by, self.key, self.late, self.zone = by, key, late, zone_of(tz)
        self.lateness_ms = milliseconds(lateness or 0, name="lateness", may_be_zero=True)
        self.close_after_ms = None if close_after is None else milliseconds(close_after, name="close_after")
        self.max_ahead_ms = milliseconds(max_ahead, name="max_ahead")
        self.watermark = self._new_watermark()
        self.touched: set[Hashable] = set()
        """Keys whose state has changed since the last cut."""
        self.dropped = 0
        """The number of late elements, or rows of frames, that were dropped since the start of the run."""
        self._topics: dict[str, str] = {}
        self._warn = Repeated(logger)
        super().__init__(upstreams=upstreams, stream_name=stream_name, **kwargs)

    def _new_watermark(self) -> Watermark:
        return Watermark(self.lateness_ms, self.close_after_ms)

    # --- what subclasses have ---

    @abstractmethod
    def take_in(self, x: Any, who: Stream | None, metadata: Metadata, topic: str, at: int) -> None:
        """Put an element into the state, and its time into the watermark."""

    @abstractmethod
    def next_end(self) -> int | None:
        """Return the least watermark at which something is to be emitted; None if nothing waits."""

    @abstractmethod
    def emit_due(self) -> list[Any]:
        """Emit what the watermark has reached; return awaitables."""

    # --- streamz and the source ---

    def update(self, x: Any, who: Stream | None = None, metadata: Metadata = None) -> list[Any]:
        """Emit what the position of an element shows to be due, take in the element, and emit what it makes due."""
        topic, at = self._place(metadata)
        waiting: list[Any] = []
        if at >= self.watermark.quiet_until:
            waiting = self.pass_time(at)
            self.watermark.move(at)
        self.touched.add(PROGRESS)
        try:
            self.take_in(x, who, metadata, topic, at)
        except Exception as error:
            if not waiting or ends_run(error):
                raise
            self.secured.fail(self, metadata, error)  # type: ignore[attr-defined]
        end = self.next_end()
        return waiting if end is None or end > self.watermark.value else waiting + self.emit_due()

    @property
    def due(self) -> int | None:
        """The next position that may make something due without an element; None: no position does."""
        return None if (end := self.next_end()) is None else self.watermark.next(end)

    def pass_time(self, at: int) -> list[Any]:
        """Emit what is due at the positions up to this one; return awaitables."""
        waiting: list[Any] = []
        while (position := self.due) is not None and position <= at:
            self.watermark.move(position)
            self.touched.add(PROGRESS)
            waiting += self.emit_due()
        return waiting

    # --- for subclasses ---

    def _place(self, metadata: Metadata) -> tuple[str, int]:
        """Return the topic and the position of an element."""
        if type(metadata) is LazyReceipts and len(metadata.entries) == 1:
            name, id_ = metadata.entries[0].origin
            if topic := self._topics.get(name):
                return topic, int(id_.partition("-")[0])  # nearly all elements; the same as below
        metadata = in_full(metadata)
        found = receipts(metadata)
        given = [one["at"] for one in metadata or () if "at" in one]
        if given:
            return "", max(given)
        topic, at = "", NEVER
        for receipt in found:
            if receipt.id and (ms := id_numbers(receipt.id)[0]) > at:
                topic, at = receipt.topic, ms
        if (known := self._topics.get(topic)) is None:
            derived = derived_from(topic)
            known = self._topics[topic] = derived[0] if derived and derived[1] == "retry" else topic
        return known, max(at, self.watermark.at) if at == NEVER else at

    def _time(self, x: Any, metadata: Metadata) -> int:
        """Return the event time of an element in ms.

        raises    TypeError, ValueError: it has none
        """
        if self.by is None:
            if (time := event_time(metadata)) is None:
                msg = f"node {self!r}: expected an element made of entries, which have an event time, got another; use by="
                raise ValueError(msg)
            return time
        return value_time(self.by(x) if callable(self.by) else x[self.by], self.zone)

    def _row_times(self, frame: pd.DataFrame, metadata: Metadata) -> np.ndarray:
        """Return the event times of the rows of a frame in ms.

        raises    TypeError, ValueError, KeyError: a row has none, or the key is a function
        """
        if callable(self.key):
            msg = "expected a column as the key for frames, got a function; name a column, or turn rows into elements with flatten()"
            raise TypeError(msg)
        if self.by is None or callable(self.by):
            return np.full(len(frame), self._time(frame, metadata))
        return times_of_rows(column(frame, self.by), self.zone)

    @property
    def _key_names(self) -> list[Any]:
        """The names of the key's columns."""
        return [] if self.key is None else self.key if isinstance(self.key, list) else [self.key]

    def _key_of(self, x: Any) -> Hashable:
        """Return the key of an element; None without keys."""
        key: Any = self.key
        if key is None:
            return None
        if isinstance(key, list):
            return tuple([_known(x[one]) for one in key])
        found = key(x) if callable(key) else x[key]
        if type(found) not in PLAIN:
            expect_plain(found, self, "the key function")
        return None if found is pd.NA or found != found else found  # noqa: PLR0124 - as `_known`, for nearly all elements

    def _expect_not_ahead(self, time: int, at: int) -> None:
        if time - at > self.max_ahead_ms and at != NEVER:
            msg = (
                f"expected an event time at most {self.max_ahead_ms / 1000:g} s after the entry was appended, got one "
                f"{(time - at) / 1000:,.3f} s after; correct the clock of the source, or raise max_ahead"
            )
            raise ValueError(msg)

    def _refuse_rows(
        self, frame: Any, is_late: np.ndarray, behind: int, who: Stream | None, metadata: Metadata
    ) -> None:
        """Drop and count the late rows of a frame, or make them a dead letter of their own. Call it when nothing else can fail.

        raises    ValueError: all rows are late, or they belong to no entry, or failures stop the run
        """
        late = int(is_late.sum())
        origins = [one for one in receipts(metadata) if one.id]
        put = self.secured.put_letter  # type: ignore[attr-defined]
        if self.late == "drop" or late == len(frame) or put is None or not origins:
            self._refuse_late(behind, late)
            return
        error = ValueError(
            f"expected rows of windows that are open, got {late:,} of {len(frame):,} that are late, up to {behind / 1000:,.3f} s behind the "
            "watermark; the others were taken; raise lateness, or use late='drop'"
        )
        side = self.upstreams.index(who) if who in self.upstreams else 0
        put(part_letter(origins[-1], frame.loc[is_late], node=self.meter.name, side=side, error=error))  # type: ignore[attr-defined]
        self._warn(
            f"node {self.meter.name!r}: late rows of frames became dead letters",  # type: ignore[attr-defined]
            detail=f"{behind / 1000:g} s behind the watermark",
        )

    def _refuse_late(self, behind: int, rows: int = 1) -> None:
        """Drop and count late elements, or have them fail.

        behind    ms by which the oldest one is behind the watermark
        """
        if self.late == "drop":
            self.dropped += rows
            self._warn(
                f"node {self.meter.name!r}: late elements are dropped",
                detail=f"{behind / 1000:g} s behind the watermark",
            )  # type: ignore[attr-defined]
            return
        msg = (
            f"expected an element of a window that is open, got one that is late: {behind / 1000:,.3f} s behind the watermark; raise lateness, "
            "or use late='drop'"
        )
        raise ValueError(msg)

    def _send(self, x: Any, time: int, members: Metadata = None) -> list[Any]:
        """Emit an element that time has caused, with an event time of its own; return awaitables."""
        metadata = [{"time": time, "at": self.watermark.at}, *(members or ())]
        mark: Callable[[], Any] | None = self.secured.mark  # type: ignore[attr-defined]
        if mark is None or receipts(members):
            return self._emit(x, metadata)
        # Without this receipt, nothing would show that nodes behind are still at work on the element, or have failed on it.
        receipt = mark()
        try:
            return self._emit(x, [*metadata, {"ref": receipt}])
        finally:
            receipt.release()
