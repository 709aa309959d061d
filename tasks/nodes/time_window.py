"""The streamz node `time_window`: tumbling and hopping windows of event time."""

from collections.abc import Collection, Hashable, Iterator, Mapping
from heapq import heappop, heappush
from typing import Any, Unpack

import numpy as np
import pandas as pd
from streamz import Stream

from tasks.nodes.event_time import PROGRESS, EventTimeOptions, named_key
from tasks.nodes.window_node import WindowNode
from tasks.pipeline import trust
from tasks.pipeline.awaiting import expects_results
from tasks.pipeline.fusible import ends_runs
from tasks.pipeline.receipts import Metadata, Receipt, in_full, receipts
from tasks.state.memory import ABSENT, Ghosts, as_metadata, as_origins
from tasks.state.remembering import keyed, remembers
from tasks.windows.aggregation import values_of
from tasks.windows.durations import Duration, milliseconds
from tasks.windows.frame_aggregation import Table, added, finished, reduced
from tasks.windows.grid import Grid
from tasks.windows.watermark import Watermark

__all__ = ["time_window"]


_NONE: dict[Any, Any] = {}


class _Cell:
    """What a window keeps for one key: aggregated values, a table of a frame, or elements with their times and metadata."""

    __slots__ = ("contents", "emissions", "serial")

    def __init__(self, serial: int, emissions: int = 0, contents: Any = None) -> None:
        self.serial, self.emissions, self.contents = serial, emissions, contents


@Stream.register_api()
class time_window(WindowNode):  # noqa: N801 - streamz names nodes like functions
    """Emit the elements of each window of event time, or with `.agg(...)` their aggregations, when the window closes.

    A replay has the same windows as the live run: they depend on event times and the ids of entries alone. A window closes when the
    newest event time of each topic, less `lateness`, has reached its end; or when no entry has come for `close_after`, and by Redis'
    clock its end, `lateness` and `close_after` have passed.

    Elements are entries, other mappings, values, or frames, whose rows are divided among windows.

    size         the length of the windows, such as '1min'
    every        from the beginning of a window to that of the next, for windows that overlap; by default `size`
    by           the time of an element: a field (for frames a column or index level) or a function, that has datetimes, ISO text or
                 milliseconds since the epoch. By default the event time of the entry
    key          a field or column, a list of these, or (not for frames) a function: each key has windows of its own
    lateness     how much older than the newest element others may be
    late         what happens to an element whose windows are closed. 'dead_letter': it fails; the late rows of a frame become a
                 dead letter of their own. 'drop': it is dropped and counted, of a frame the late rows. 'update': a window is emitted
                 at its end, and again for each element that comes within `lateness` after that; later ones fail
    close_after  how long no entry comes until time closes windows; None: only elements close them
    max_ahead    elements fail whose time is further ahead of the time at which their entry was appended
    tz           the zone of times without one, and of the midnight at which windows begin anew; by default UTC
    closed_by    whether results have a field `closed_by`: 'event_time' if elements of all topics had reached the window's end, else
                 'clock': time had passed without an element
    emits        a `Window` (key, start, end, elements) for each window and key, by end, then in order of arrival; with `closed_by`,
                 a `MarkedWindow`, which has this field, too
    raises       SettingsError: an option that cannot be used
    """

    _graphviz_shape = "diamond"
    late_policies = ("dead_letter", "drop", "update")

    def __init__(
        self,
        upstream: Stream,
        size: Duration,
        every: Duration | None = None,
        *,
        closed_by: bool = False,
        **options: Unpack[EventTimeOptions],
    ) -> None:
        self.size_ms = milliseconds(size, name="size")
        self.every_ms = self.size_ms if every is None else milliseconds(every, name="every")
        # By beginning and key. The key of a frame is (), that of an element has one member.
        self._open: dict[int, dict[tuple[Hashable, ...], _Cell]] = {}
        self._ends: list[tuple[int, int]] = []
        self._serial = 0
        self._updates: list[tuple[int, tuple[Hashable, ...]]] = []
        super().__init__(upstream, closed_by=closed_by, **options)
        self.grid = Grid(self.size_ms, self.every_ms, self.zone)
        # How long a window stays after its emission, for updates.
        self._stays = self.lateness_ms if self.late == "update" else 0

    def _new_watermark(self) -> Watermark:
        return Watermark(0 if self.late == "update" else self.lateness_ms, self.close_after_ms)

    # --- elements ---

    def take_in(self, x: Any, who: Stream | None, metadata: Metadata, topic: str, at: int) -> None:
        """Put an element into its windows."""
        if isinstance(x, pd.DataFrame):
            self._take_frame(x, who, metadata, topic, at)
            return
        if self._add is None:
            metadata = in_full(metadata)
        time = self._time(x, metadata)
        if time > at:
            self._expect_not_ahead(time, at)
        watermark = self.watermark.value
        starts = self.grid.starts(time)
        if self._gone(starts[0]) <= watermark:
            self.watermark.see(topic, time, at)
            self._refuse_late(watermark - time)
            return
        key = (self._key_of(x),)
        if len(starts) == 1 and self._add is not None and not self._stays:  # nearly all elements; the same as below
            [start] = starts
            if (cell := self._open.get(start, _NONE).get(key)) is not None:
                cell.contents = self._add(cell.contents, x, time)
                self.touched.add((start, key[0]))
                self.watermark.see(topic, time, at)
                return
        changed = [
            (start, self._with(start, key, x, time, metadata)) for start in starts if self._gone(start) > watermark
        ]
        for start, contents in changed:  # not before: an element that raises leaves nothing
            if self._add is None:
                self._retain_refs(metadata)
            self._put(start, key, contents)
        self.watermark.see(topic, time, at)

    def _with(self, start: int, key: tuple[Hashable, ...], x: Any, time: int, metadata: Metadata) -> Any:
        """Return the contents of a window with one more element."""
        cells = self._open.get(start)
        cell = None if cells is None else cells.get(key)
        if self._add is not None:
            return self._add(None if cell is None else cell.contents, x, time)
        return time, x, metadata

    def _put(self, start: int, key: tuple[Hashable, ...], contents: Any) -> None:
        """Set the contents of a window; note an update if it was emitted already."""
        if (cells := self._open.get(start)) is None:
            cells = self._open[start] = {}
            end = self.grid.end(start)
            heappush(self._ends, (end if end > self.watermark.value else end + self._stays, start))
        if (cell := cells.get(key)) is None:
            self._serial += 1
            cell = cells[key] = _Cell(self._serial, contents=[] if self._add is None else None)
        if self._add is None:
            cell.contents.append(contents)
        else:
            cell.contents = contents
        self.touched.add((start, *key))
        if self._stays and self.grid.end(start) <= self.watermark.value:
            self._updates.append((start, key))

    def _gone(self, start: int) -> int:
        """Return the watermark from which on a window takes no elements."""
        return self.grid.end(start) + self._stays

    # --- frames ---

    def _take_frame(self, frame: pd.DataFrame, who: Stream | None, metadata: Metadata, topic: str, at: int) -> None:
        """Put the rows of a frame into their windows."""
        if self.aggregated is None:
            msg = "expected agg() for frames; use .agg(...), or turn rows into elements with flatten()"
            raise TypeError(msg)
        times = self._row_times(frame, metadata)
        if not len(frame):
            return
        newest = int(times.max())
        self._expect_not_ahead(newest, at)
        divided = list(self._divided(times))
        watermark = self.watermark.value
        on_time = np.zeros(len(frame), dtype=bool)
        for start, rows in divided:
            if self._gone(start) > watermark:
                on_time[rows] = True
        if not on_time.all():
            self.watermark.see(topic, int(times.min()), at)
        keys = self._key_names
        changed = []
        for start, rows in divided:
            if self._gone(start) <= watermark:
                continue
            is_all = len(rows) == len(frame)
            part = reduced(
                frame if is_all else frame.take(rows), keys, times if is_all else times[rows], self.aggregated
            )
            cell = self._open.get(start, {}).get(())
            changed.append((start, added(None if cell is None else cell.contents, part, self.aggregated)))
        if not on_time.all():
            self._refuse_rows(frame, ~on_time, watermark - int(times.min()), who, metadata)
        for start, table in changed:
            self._put(start, (), table)
        self.watermark.see(topic, newest, at)

    def _divided(self, times: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the beginning of each window, and the numbers of its rows."""
        if times[0] == times[-1] and (times == times[0]).all():
            yield from ((start, np.arange(len(times))) for start in self.grid.starts(int(times[0])))
            return
        unique, inverse = np.unique(times, return_inverse=True)
        by_start: dict[int, list[int]] = {}
        for n, time in enumerate(unique.tolist()):
            for start in self.grid.starts(time):
                by_start.setdefault(start, []).append(n)
        for start in sorted(by_start):
            yield start, np.flatnonzero(np.isin(inverse, by_start[start]))

    # --- emissions ---

    def next_end(self) -> int | None:
        """Return the end of the next window, or where its updates end."""
        return self.watermark.value if self._updates else self._ends[0][0] if self._ends else None

    def emit_due(self) -> list[Any]:
        """Emit windows whose elements came late, then those that the watermark has reached."""
        waiting: list[Any] = []
        updates, self._updates = self._updates, []
        for start, key in updates:
            waiting += self._emit_window(start, key, self._open[start][key])
        while self._ends and self._ends[0][0] <= self.watermark.value:
            end, start = heappop(self._ends)
            cells = self._open[start]
            if end == self.grid.end(start):
                for key, cell in sorted(cells.items(), key=lambda item: item[1].serial):
                    waiting += self._emit_window(start, key, cell)
                if self._stays:
                    heappush(self._ends, (end + self._stays, start))
                    continue
            for key, cell in cells.items():
                self.touched.add((start, *key))
                if self._add is None:
                    for _, _, metadata in cell.contents:
                        self._release_refs(metadata)
            del self._open[start]
        return waiting

    def _emit_window(self, start: int, key: tuple[Hashable, ...], cell: _Cell) -> list[Any]:
        end = self.grid.end(start)
        cell.emissions += 1
        if self._stays:
            self.touched.add((start, *key))
        bounds = self._named_bounds(start, end)
        if self.late == "update":
            bounds["revision"] = cell.emissions
        members: Metadata = None
        if not key:
            made: Any = finished(cell.contents, self.aggregated or [])
            if self.key is None:
                made = made.reset_index(drop=True)
            for n, (name, value) in enumerate(bounds.items()):
                made.insert(n, name, value)
        elif self.aggregated is not None:
            made = named_key(self.key, key[0]) | bounds | values_of(self.aggregated, cell.contents)
        else:
            ordered = sorted(cell.contents, key=lambda one: one[0])
            made = self._window(key[0], bounds, [x for _, x, _ in ordered])
            members = [each for _, _, metadata in cell.contents for each in metadata or ()]
        return self._send(made, end - 1, members)

    # --- state ---

    def keys_of(self, failed: Collection[Receipt]) -> list[Hashable]:
        """Return the keys whose windows hold any of these receipts."""
        if self._add is not None:
            return []
        among = set(failed)
        return [
            (start, *key)
            for start, cells in self._open.items()
            for key, cell in cells.items()
            if not among.isdisjoint(one for _, _, metadata in cell.contents for one in receipts(metadata))
        ]

    def stored_state(self, key: Any) -> Any:
        """Return what to store of a window and key, or ABSENT."""
        if key is PROGRESS:
            return self.watermark.stored()
        start, *of = key
        if (cell := self._open.get(start, {}).get(tuple(of))) is None:
            return ABSENT
        contents = cell.contents
        if self._add is None:
            contents = [(time, x, as_origins(metadata)) for time, x, metadata in contents]
        elif isinstance(contents, Table):
            contents = contents.as_frame()
        return cell.serial, cell.emissions, contents

    def restore_states(self, states: Mapping[Any, Any], ghosts: Ghosts) -> None:
        """Set all windows."""
        for stored, value in states.items():
            if stored is PROGRESS:
                self.watermark.restore(value)
                continue
            start, *key = stored
            serial, emissions, contents = value
            if self._add is None:
                contents = [(time, x, as_metadata(origins, ghosts)) for time, x, origins in contents]
                for _, _, metadata in contents:
                    self._retain_refs(metadata)
            elif isinstance(contents, pd.DataFrame):
                contents = Table.of_frame(contents)
            self._open.setdefault(start, {})[tuple(key)] = _Cell(serial, emissions, contents)
            self._serial = max(self._serial, serial)
        for start in self._open:
            end = self.grid.end(start)
            heappush(self._ends, (end + self._stays if end <= self.watermark.value else end, start))


trust(time_window, keeps=True)
ends_runs(time_window)
expects_results(time_window, "key", "by")
remembers(
    time_window,
    keyed,
    parameters=["size_ms", "every_ms", "aggregations", "late", "key"],
    lasts=True,
)
