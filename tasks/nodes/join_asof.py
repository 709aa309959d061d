"""The streamz node `join_asof`: each element of the left side with the last one before it of the right side."""

from bisect import bisect_right, insort
from collections.abc import Callable, Collection, Hashable, Mapping
from heapq import heapify, heappop, heappush
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from streamz import Stream

from tasks.checks import check_choice
from tasks.errors import SettingsError
from tasks.nodes.event_time import PROGRESS, EventTimeNode
from tasks.pipeline import trust
from tasks.pipeline.awaiting import expects_results
from tasks.pipeline.receipts import Metadata, Receipt, receipts
from tasks.state.memory import ABSENT, Ghosts, as_metadata, as_origins
from tasks.state.remembering import keyed, remembers
from tasks.windows.durations import Duration, milliseconds
from tasks.windows.times import TimeOf, times_of_rows
from tasks.windows.times import column as column_of

__all__ = ["join_asof"]

_LEFT, _RIGHT, _ROWS = "left", "right", "rows"
_MS, _FOUND = "__event_ms", "__found"
# The rows of the right side are thinned out when so many have come since the last time.
_THIN_AFTER = 50_000


@Stream.register_api()
class join_asof(EventTimeNode):  # noqa: N801 - streamz names nodes like functions
    """Emit each element of the left stream with the last element of the right one that is not newer, by event time.

    As `pandas.merge_asof` over all elements at once, with `direction="backward"`; of several right elements of one time, the one that
    came last. A pair is emitted when the watermark shows that no other partner can come, as a `time_window` closes.

    right        the other stream, of the same source
    by           the time of an element, as in `time_window`; of both streams
    key          a field or column, a list of these, or (not for frames) a function: only elements of the same key are partners
    tolerance    how much older the partner may be; by default any age
    how          what is emitted without a partner: 'left', the element with None (in frames, missing values), or 'inner', nothing
    lateness, late, close_after, max_ahead, tz   as in `time_window`; `late` is 'dead_letter' or 'drop'
    emits        pairs (left, right), by event time; for frames the rows of the left frame, by time, with the columns of the right one
    raises       SettingsError: an option that cannot be used
    """

    _graphviz_shape = "diamond"

    def __init__(
        self,
        left: Stream,
        right: Stream,
        *,
        by: TimeOf | None = None,
        key: Callable[[Any], Hashable] | Hashable | list[Hashable] | None = None,
        tolerance: Duration | None = None,
        how: Literal["left", "inner"] = "left",
        lateness: Duration | None = None,
        late: Literal["dead_letter", "drop"] = "dead_letter",
        close_after: Duration | None = "10s",
        max_ahead: Duration = "5min",
        tz: str | ZoneInfo | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(right, Stream) or right is left:
            msg = f"join_asof: expected another stream as the right side, got {right!r}"
            raise SettingsError(msg)
        check_choice(how, ("left", "inner"), name="how")
        self.key, self.how = key, how
        self.tolerance_ms = None if tolerance is None else milliseconds(tolerance, name="tolerance", may_be_zero=True)
        # Left elements that wait: a heap of (time, serial), and (time, key, element, metadata) by serial.
        self._times: list[tuple[int, int]] = []
        self._left: dict[int, tuple[int, Any, Any, Metadata]] = {}
        # Right elements by key: (time, serial, element), by time.
        self._right: dict[Hashable, list[tuple[int, int, Any]]] = {}
        self._rows: pd.DataFrame | None = None
        self._new_rows = 0
        self._serial = 0
        super().__init__(
            [left, right],
            by=by,
            lateness=lateness,
            late=late,
            policies=("dead_letter", "drop"),
            close_after=close_after,
            max_ahead=max_ahead,
            tz=tz,
            **kwargs,
        )

    # --- elements ---

    def take_in(self, x: Any, who: Stream | None, metadata: Metadata, topic: str, at: int) -> None:
        """Keep an element for its partners."""
        is_right = who is self.upstreams[1]
        if isinstance(x, pd.DataFrame):
            self._take_frame(x, metadata, topic, at, is_right=is_right)
            return
        time = self._time(x, metadata)
        self._expect_not_ahead(time, at)
        if time < self.watermark.value:
            self.watermark.see(topic, time, at)
            self._refuse_late(self.watermark.value - time)
            return
        key = self._key_of(x)
        if is_right:
            kept = self._right.setdefault(key, [])
            self._serial += 1
            insort(kept, (time, self._serial, x), key=_place)
            self._forget_before(key, self.watermark.value)
        else:
            self._wait(time, key, x, metadata)
        self.watermark.see(topic, time, at)

    def _wait(self, time: int, key: Any, x: Any, metadata: Metadata) -> None:
        self._serial += 1
        self._retain_refs(metadata)
        heappush(self._times, (time, self._serial))
        self._left[self._serial] = time, key, x, metadata
        self.touched.add((_LEFT, self._serial))

    def _forget_before(self, key: Hashable, time: int) -> None:
        """Forget the right elements of a key that no left element from this time on can have as a partner."""
        kept = self._right[key]
        last = bisect_right(kept, time, key=_time_of) - 1
        if last > 0:
            del kept[:last]
        self.touched.add((_RIGHT, key))

    # --- frames ---

    def _take_frame(self, frame: pd.DataFrame, metadata: Metadata, topic: str, at: int, *, is_right: bool) -> None:
        if callable(self.key):
            msg = "expected a column as the key for frames, got a function"
            raise TypeError(msg)
        if not len(frame):
            return
        if self.by is None or callable(self.by):
            times = np.full(len(frame), self._time(frame, metadata))
        else:
            times = times_of_rows(column_of(frame, self.by), self.zone)
        newest = int(times.max())
        self._expect_not_ahead(newest, at)
        rows = self._with_key_columns(frame).assign(**{_MS: times})
        on_time = times >= self.watermark.value
        if not on_time.all():
            self.watermark.see(topic, oldest := int(times.min()), at)
            self._refuse_late(self.watermark.value - oldest, int((~on_time).sum()))
            rows = rows.loc[on_time]
        if is_right:
            if isinstance(self.by, str):
                rows = rows.drop(columns=self.by, errors="ignore")
            rows = rows.assign(**{_FOUND: True})
            self._rows = rows if self._rows is None else pd.concat([self._rows, rows], ignore_index=True)
            self._new_rows += len(rows)
            if self._new_rows > _THIN_AFTER:
                self._thin_out()
            self.touched.add((_ROWS,))
        elif len(rows):
            self._wait(int(rows[_MS].max()), (), rows, metadata)
        self.watermark.see(topic, newest, at)

    @property
    def _keys(self) -> list[Any]:
        return [] if self.key is None else self.key if isinstance(self.key, list) else [self.key]

    def _with_key_columns(self, frame: pd.DataFrame) -> Any:
        """Return a frame whose keys and time are columns."""
        wanted = [*self._keys, *([self.by] if isinstance(self.by, str) else [])]
        levels = [name for name in wanted if name not in frame.columns and name in frame.index.names]
        return frame.reset_index(levels) if levels else frame

    def _thin_out(self) -> None:
        """Keep the rows that a left row may still have as a partner: of each key the last one before that, and later ones."""
        assert self._rows is not None
        horizon = min(
            [
                self.watermark.value,
                *(int(x[_MS].to_numpy().min()) for _, _, x, _ in self._left.values() if isinstance(x, pd.DataFrame)),
            ]
        )
        rows: Any = self._rows.sort_values(_MS, kind="stable")
        old = rows[rows[_MS] <= horizon]
        last = old.groupby(self._keys, sort=False).tail(1) if self._keys else old.tail(1)
        if self.tolerance_ms is not None:
            last = last[last[_MS] >= horizon - self.tolerance_ms]
        self._rows = pd.concat([last, rows[rows[_MS] > horizon]], ignore_index=True)
        self._new_rows = 0

    def _merged(self, rows: Any) -> Any:
        left = rows.sort_values(_MS, kind="stable")
        if self._rows is None:
            return left.iloc[:0].drop(columns=_MS) if self.how == "inner" else left.drop(columns=_MS)
        merged: Any = pd.merge_asof(
            left,
            self._rows.sort_values(_MS, kind="stable"),
            on=_MS,
            by=self._keys or None,
            tolerance=self.tolerance_ms,
            suffixes=("", "_right"),
        )
        if self.how == "inner":
            merged = merged[merged[_FOUND].notna()]
        return merged.drop(columns=[_MS, _FOUND]).reset_index(drop=True)

    # --- emissions ---

    def next_end(self) -> int | None:
        """Return the watermark at which the oldest left element has its partner."""
        return self._times[0][0] + 1 if self._times else None

    def emit_due(self) -> list[Any]:
        """Emit the left elements that the watermark has passed."""
        waiting: list[Any] = []
        while self._times and self._times[0][0] < self.watermark.value:
            _, serial = heappop(self._times)
            time, key, x, metadata = self._left.pop(serial)
            self.touched.add((_LEFT, serial))
            made = self._merged(x) if isinstance(x, pd.DataFrame) else (x, self._partner(key, time))
            if self.how == "left" or (len(made) if isinstance(x, pd.DataFrame) else made[1] is not None):
                waiting += self._send(made, time, metadata)
            self._release_refs(metadata)
        return waiting

    def _partner(self, key: Hashable, time: int) -> Any:
        kept = self._right.get(key, [])
        if not kept or kept[0][0] > time:
            return None
        self._forget_before(key, time)
        at, _, x = kept[0]
        return None if self.tolerance_ms is not None and time - at > self.tolerance_ms else x

    # --- state ---

    def keys_of(self, failed: Collection[Receipt]) -> list[Hashable]:
        """Return the keys of left elements that hold any of these receipts."""
        among = set(failed)
        return [
            (_LEFT, serial) for serial, (_, _, _, held) in self._left.items() if not among.isdisjoint(receipts(held))
        ]

    def stored_state(self, key: Any) -> Any:
        """Return what to store of one left element, of the right ones of a key or of their rows, or ABSENT."""
        if key is PROGRESS:
            return self.watermark.stored(), self._serial
        if key[0] == _ROWS:
            return self._rows
        if key[0] == _RIGHT:
            return self._right.get(key[1], ABSENT)
        found = self._left.get(key[1])
        return ABSENT if found is None else (*found[:3], as_origins(found[3]))

    def restore_states(self, states: Mapping[Any, Any], ghosts: Ghosts) -> None:
        """Set everything that waits."""
        for stored, value in states.items():
            if stored is PROGRESS:
                progress, self._serial = value
                self.watermark.restore(progress)
            elif stored[0] == _ROWS:
                self._rows = value
            elif stored[0] == _RIGHT:
                self._right[stored[1]] = [tuple(one) for one in value]
            else:
                time, key, x, origins = value
                self._retain_refs(metadata := as_metadata(origins, ghosts))
                self._times.append((time, stored[1]))
                self._left[stored[1]] = time, key, x, metadata
        heapify(self._times)


def _time_of(kept: tuple[int, int, Any]) -> int:
    return kept[0]


def _place(kept: tuple[int, int, Any]) -> tuple[int, int]:
    return kept[:2]


trust(join_asof, keeps=True)
expects_results(join_asof, "key", "by")
remembers(join_asof, keyed, parameters=["tolerance_ms", "how", "key"], lasts=True)
