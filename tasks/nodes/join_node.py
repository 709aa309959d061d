"""What nodes that join two streams by event time have in common: elements that wait for partners, and those kept as partners."""

from abc import abstractmethod
from bisect import insort
from collections.abc import Collection, Hashable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np
import pandas as pd
from streamz import Stream

from tasks.base.fatal import ends_run
from tasks.checks import check_choice
from tasks.errors import SettingsError
from tasks.nodes.event_time import PROGRESS, EventTimeNode, EventTimeOptions
from tasks.pipeline.graphs import nodes_above
from tasks.pipeline.receipts import Metadata, Receipt, receipts
from tasks.state.memory import ABSENT, Ghosts, as_metadata, as_origins

__all__ = ["MS", "How", "JoinNode", "Kept", "place_of"]

How = Literal["left", "inner"]

Kept = tuple[int, int]
"""The time of a right element, in ms, and its serial number."""

MS = "__event_ms"
"""The column with the event times of rows that wait or are kept."""

_LEFT, _RIGHT, _ROWS = "left", "right", "rows"
# Right elements are swept when there are so many more than twice those left by the last sweep.
_SWEEP_AFTER = 1_000
# The parts of right frames are put together when there are so many, or so many new rows.
_MOST_PARTS, _MOST_ROWS = 64, 50_000


class _Waiting(NamedTuple):
    """A left element: its time (of a frame those of its first and last row), key and metadata."""

    first: int
    time: int
    key: Hashable
    element: Any
    metadata: Metadata


class JoinNode(EventTimeNode):
    """A join of two streams of one source.

    A left element waits until the watermark shows that no other partner can come. A right one is kept while a left one may need it.

    before_ms, after_ms   how much older and newer than a left element its partners may be; before_ms None: any age
    """

    before_ms: int | None = None
    after_ms: int = 0

    def __init__(self, left: Stream, right: Stream, *, how: How, **options: Unpack[EventTimeOptions]) -> None:
        if not isinstance(right, Stream) or right is left:
            msg = f"{type(self).__name__}: expected another stream as the right side, got {right!r}"
            raise SettingsError(msg)
        check_choice(how, ("left", "inner"), name="how")
        self.how = how
        # Left elements by serial, and a heap of (time, serial).
        self._left: dict[int, _Waiting] = {}
        self._times: list[tuple[int, int]] = []
        # Right elements with their keys by serial, and for each key their times and serials, by time.
        self._right: dict[int, tuple[int, Hashable, Any]] = {}
        self._by_key: dict[Hashable, list[Kept]] = {}
        self._left_by_sweep = 0
        # Rows of the right side by the serial of their frame, and all of them by time.
        self._parts: dict[int, pd.DataFrame] = {}
        self._by_time: pd.DataFrame | None = None
        self._new_rows = 0
        self._is_derived: bool | None = None
        self._serial = 0
        super().__init__([left, right], **options)

    # --- what subclasses have ---

    @abstractmethod
    def partners(self, kept: list[Kept], time: int) -> Sequence[Kept]:
        """Return the partners of a left element among the right elements of its key, which are in the order of time."""

    @abstractmethod
    def first_needed(self, kept: list[Kept], horizon: int) -> int:
        """Return the position of the first right element that left ones from this time on may need."""

    @abstractmethod
    def rows_needed(self, rows: pd.DataFrame, horizon: int) -> pd.DataFrame:
        """Return the rows that left ones from this time on may need; rows are by time."""

    @abstractmethod
    def joined_rows(self, left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
        """Return left rows with their partners; both sides are by time, with the column MS."""

    # --- elements ---

    def take_in(self, x: Any, who: Stream | None, metadata: Metadata, topic: str, at: int) -> None:
        """Have a left element wait, or keep a right one."""
        is_right = who is self.upstreams[1]
        topic = topic or self._lane(at, is_right=is_right)
        if isinstance(x, pd.DataFrame):
            self._take_frame(x, who, metadata, topic, at)
            return
        time = self._time(x, metadata)
        self._expect_not_ahead(time, at)
        if time < self.watermark.value:
            self.watermark.see(topic, time, at)
            self._refuse_late(self.watermark.value - time)
            return
        key = self._key_of(x)
        if is_right:
            self._serial += 1
            self._right[self._serial] = time, key, x
            insort(self._by_key.setdefault(key, []), (time, self._serial))
            self.touched.add((_RIGHT, self._serial))
            self._forget(key, self._horizon)
            if len(self._right) > 2 * self._left_by_sweep + _SWEEP_AFTER:
                self._sweep()
        else:
            self._wait(_Waiting(time, time, key, x, metadata))
        self.watermark.see(topic, time, at)

    def _lane(self, at: int, *, is_right: bool) -> str:
        """Return what stands for the topic of an element that a window has emitted: its side, as one side may be ahead of the other.

        If both sides consist of such elements, the watermark waits for both from the first one on.
        """
        if self._is_derived is None:
            self._is_derived = all(
                any(hasattr(node, "pass_time") for node in (up, *nodes_above(up))) for up in self.upstreams
            )
        if self._is_derived:
            self.watermark.expect((_LEFT, _RIGHT), at)
        return _RIGHT if is_right else _LEFT

    def _wait(self, one: _Waiting) -> None:
        self._serial += 1
        self._retain_refs(one.metadata)
        heappush(self._times, (one.time, self._serial))
        self._left[self._serial] = one
        self.touched.add((_LEFT, self._serial))

    @property
    def _horizon(self) -> int:
        """The time from which on left elements may still be joined."""
        return min(self.watermark.value, self._times[0][0]) if self._times else self.watermark.value

    def _forget(self, key: Hashable, horizon: int) -> None:
        """Forget the right elements of a key that no left element can have as a partner any more."""
        kept = self._by_key[key]
        if (first := self.first_needed(kept, horizon)) <= 0:
            return
        for _, serial in kept[:first]:
            del self._right[serial]
            self.touched.add((_RIGHT, serial))
        del kept[:first]
        if not kept:
            del self._by_key[key]

    def _sweep(self) -> None:
        """Forget what is not needed, of the keys, too, that no longer come."""
        horizon = self._horizon
        for key in list(self._by_key):
            self._forget(key, horizon)
        self._left_by_sweep = len(self._right)

    # --- frames ---

    def _take_frame(self, frame: pd.DataFrame, who: Stream | None, metadata: Metadata, topic: str, at: int) -> None:
        times = self._row_times(frame, metadata)
        if not len(frame):
            return
        newest = int(times.max())
        self._expect_not_ahead(newest, at)
        rows = self._with_columns(frame).assign(**{MS: times})
        on_time = times >= self.watermark.value
        if not on_time.all():
            self.watermark.see(topic, oldest := int(times.min()), at)
            self._refuse_rows(frame, ~on_time, self.watermark.value - oldest, who, metadata)
            rows = rows.loc[on_time]
        if len(rows):
            rows = rows.sort_values(MS, kind="stable")
            if who is self.upstreams[1]:
                self._keep_rows(rows)
            else:
                first, last = (int(rows[MS].iloc[n]) for n in (0, -1))
                self._wait(_Waiting(first, last, (), rows, metadata))
        self.watermark.see(topic, newest, at)

    def _with_columns(self, frame: pd.DataFrame) -> Any:
        """Return a frame whose keys and time are columns."""
        wanted = [*self._key_names, *([self.by] if isinstance(self.by, str) else [])]
        levels = [name for name in wanted if name not in frame.columns and name in frame.index.names]
        return frame.reset_index(levels) if levels else frame

    def key_codes(self, left: pd.DataFrame, right: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return a number for the key of each row; keys of both sides are equal if pandas groups them together, whatever their dtypes."""
        if not (keys := self._key_names):
            return np.zeros(len(left), dtype="int64"), np.zeros(len(right), dtype="int64")
        both = pd.concat([left[keys], right[keys]], ignore_index=True)
        codes = both.groupby(keys, sort=False, dropna=False, observed=True).ngroup().to_numpy()
        return codes[: len(left)], codes[len(left) :]

    @property
    def _row_horizon(self) -> int:
        """The time from which on left rows may still be joined."""
        waiting = [one.first for one in self._left.values() if isinstance(one.element, pd.DataFrame)]
        return min([self.watermark.value, *waiting])

    def _keep_rows(self, rows: pd.DataFrame) -> None:
        if self.before_ms is not None:
            oldest = self._row_horizon - self.before_ms
            for serial in [one for one, part in self._parts.items() if part[MS].iloc[-1] < oldest]:
                self._drop_part(serial)
        self._add_part(rows)
        self._new_rows += len(rows)
        if len(self._parts) > _MOST_PARTS or self._new_rows > _MOST_ROWS:
            needed = self.rows_needed(self._kept_rows(), self._row_horizon)
            for serial in list(self._parts):
                self._drop_part(serial)
            if len(needed):
                self._add_part(needed)
            self._new_rows = 0

    def _add_part(self, rows: pd.DataFrame) -> None:
        self._serial += 1
        self._parts[self._serial] = rows
        self.touched.add((_ROWS, self._serial))
        self._by_time = None

    def _drop_part(self, serial: int) -> None:
        del self._parts[serial]
        self.touched.add((_ROWS, serial))
        self._by_time = None

    def _kept_rows(self) -> pd.DataFrame:
        """Return the rows of the right side by time, those of one time in order of arrival."""
        if self._by_time is None:
            rows = pd.concat(self._parts.values(), ignore_index=True)
            self._by_time = rows.sort_values(MS, kind="stable", ignore_index=True)
        return self._by_time

    def _joined(self, left: pd.DataFrame) -> pd.DataFrame:
        """Return left rows with their partners."""
        if self._parts:
            return self.joined_rows(left, self._kept_rows()).drop(columns=MS)
        return (left.iloc[:0] if self.how == "inner" else left).drop(columns=MS).reset_index(drop=True)

    # --- emissions ---

    def next_end(self) -> int | None:
        """Return the watermark at which the oldest left element has all of its partners."""
        return self._times[0][0] + self.after_ms + 1 if self._times else None

    def emit_due(self) -> list[Any]:
        """Emit the left elements to which no other partner can come."""
        waiting: list[Any] = []
        while (end := self.next_end()) is not None and end <= self.watermark.value:
            _, serial = heappop(self._times)
            one = self._left.pop(serial)
            self.touched.add((_LEFT, serial))
            try:
                for made in self._made(one):
                    waiting += self._send(made, one.time, one.metadata)
            except Exception as error:
                if ends_run(error):
                    raise
                self.secured.fail(self, one.metadata, error)  # type: ignore[attr-defined]
            self._release_refs(one.metadata)
        return waiting

    def _made(self, one: _Waiting) -> list[Any]:
        """Return what is to be emitted for a left element."""
        if isinstance(one.element, pd.DataFrame):
            joined = self._joined(one.element)
            return [joined] if len(joined) else []
        found = self.partners(self._by_key.get(one.key, []), one.time)
        pairs = [(one.element, self._right[serial][2]) for _, serial in found]
        return pairs or ([(one.element, None)] if self.how == "left" else [])

    # --- state ---

    def keys_of(self, failed: Collection[Receipt]) -> list[Hashable]:
        """Return the keys of left elements that hold any of these receipts."""
        among = set(failed)
        return [(_LEFT, serial) for serial, one in self._left.items() if not among.isdisjoint(receipts(one.metadata))]

    def stored_state(self, key: Any) -> Any:
        """Return what to store of a left element, a right one or the rows of a right frame, or ABSENT."""
        if key is PROGRESS:
            return self.watermark.stored(), self._serial
        side, serial = key
        if side == _ROWS:
            return self._parts.get(serial, ABSENT)
        if side == _RIGHT:
            return self._right.get(serial, ABSENT)
        found = self._left.get(serial)
        return ABSENT if found is None else (*found[:4], as_origins(found.metadata))

    def restore_states(self, states: Mapping[Any, Any], ghosts: Ghosts) -> None:
        """Set everything that waits or is kept."""
        for stored, value in sorted(states.items(), key=lambda item: item[0] or ("", 0)):
            if stored is PROGRESS:
                progress, self._serial = value
                self.watermark.restore(progress)
                continue
            side, serial = stored
            if side == _ROWS:
                self._parts[serial] = value
                self._new_rows += len(value)
            elif side == _RIGHT:
                self._right[serial] = time, key, _ = value
                insort(self._by_key.setdefault(key, []), (time, serial))
            else:
                *one, origins = value
                self._retain_refs(metadata := as_metadata(origins, ghosts))
                first, time, key, element = one
                self._left[serial] = _Waiting(first, time, key, element, metadata)
                self._times.append((self._left[serial].time, serial))
        heapify(self._times)


def place_of(kept: Kept) -> int:
    """Return the time of a right element."""
    return kept[0]
