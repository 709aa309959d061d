"""The streamz node `session_window`: elements of a key between which no long time passes."""

from collections.abc import Collection, Hashable, Mapping
from heapq import heapify, heappop, heappush
from typing import Any, Unpack

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
from tasks.windows.aggregation import merged, values_of
from tasks.windows.durations import Duration, milliseconds

__all__ = ["session_window"]


class _Session:
    """Elements of one key: the first and last of their times, and aggregated values, or elements with times and metadata."""

    __slots__ = ("contents", "first", "key", "last")

    def __init__(self, key: Hashable, first: int, last: int, contents: Any) -> None:
        self.key, self.first, self.last, self.contents = key, first, last, contents


@Stream.register_api()
class session_window(WindowNode):  # noqa: N801 - streamz names nodes like functions
    """Emit the elements of each session of a key, or with `.agg(...)` their aggregations, when `gap` has passed without another.

    A session ends `gap` after its last element. A late element may join two sessions. Sessions close as a `time_window` does, and are
    the same in a replay. Elements are entries, other mappings or values; flatten frames into rows before.

    gap          the time without an element that ends a session
    late         what happens to an element that is in no open session and would not open one: 'dead_letter' or 'drop'
    by, key, lateness, close_after, max_ahead, tz, closed_by   as in `time_window`
    emits        a `Window` (key, start, end, elements) for each session, by end, or a `MarkedWindow`; with `.agg(...)`, a dict as in
                 `time_window`
    raises       SettingsError: an option that cannot be used
    """

    _graphviz_shape = "diamond"

    def __init__(
        self, upstream: Stream, gap: Duration, *, closed_by: bool = False, **options: Unpack[EventTimeOptions]
    ) -> None:
        self.gap_ms = milliseconds(gap, name="gap")
        # Sessions by serial, the serials by key, and a heap of (end, serial), which has outdated ends, too.
        self._sessions: dict[int, _Session] = {}
        self._by_key: dict[Hashable, list[int]] = {}
        self._ends: list[tuple[int, int]] = []
        self._serial = 0
        super().__init__(upstream, closed_by=closed_by, **options)

    def take_in(self, x: Any, who: Stream | None, metadata: Metadata, topic: str, at: int) -> None:  # noqa: ARG002
        """Put an element into a session: a new one, an open one, or one made of two."""
        if isinstance(x, pd.DataFrame):
            msg = "expected single elements for sessions, got a frame; turn its rows into elements with flatten()"
            raise TypeError(msg)
        time = self._time(x, metadata)
        self._expect_not_ahead(time, at)
        key = self._key_of(x)
        near = sorted(
            serial
            for serial in self._by_key.get(key, ())
            if self._sessions[serial].first - self.gap_ms < time < self._sessions[serial].last + self.gap_ms
        )
        joined = [self._sessions[serial] for serial in near]
        first, last = min([time, *(one.first for one in joined)]), max([time, *(one.last for one in joined)])
        if last + self.gap_ms <= self.watermark.value:
            self.watermark.see(topic, time, at)
            self._refuse_late(self.watermark.value - time)
            return
        contents = self._joined(joined, x, time, metadata)
        for serial in near:
            self._drop(serial)
        if near:
            serial = near[0]
        else:
            self._serial += 1
            serial = self._serial
        self._sessions[serial] = _Session(key, first, last, contents)
        self._by_key.setdefault(key, []).append(serial)
        heappush(self._ends, (last + self.gap_ms, serial))
        self.touched.add((serial,))
        self.watermark.see(topic, time, at)

    def _joined(self, sessions: list[_Session], x: Any, time: int, metadata: Metadata) -> Any:
        if self._add is None:
            metadata = in_full(metadata)
            self._retain_refs(metadata)
            return [*(member for one in sessions for member in one.contents), (time, x, metadata)]
        cell = None
        for one in sessions:
            cell = one.contents if cell is None else merged(self.aggregated or [], cell, one.contents)
        return self._add(cell, x, time)

    def _drop(self, serial: int) -> _Session:
        session = self._sessions.pop(serial)
        self._by_key[session.key].remove(serial)
        if not self._by_key[session.key]:
            del self._by_key[session.key]
        self.touched.add((serial,))
        return session

    def next_end(self) -> int | None:
        """Return the end of the next session."""
        while self._ends:
            end, serial = self._ends[0]
            if (session := self._sessions.get(serial)) is not None and session.last + self.gap_ms == end:
                return end
            heappop(self._ends)
        return None

    def emit_due(self) -> list[Any]:
        """Emit the sessions that the watermark has reached."""
        waiting: list[Any] = []
        while (end := self.next_end()) is not None and end <= self.watermark.value:
            session = self._drop(heappop(self._ends)[1])
            bounds = self._named_bounds(session.first, end)
            if self.aggregated is not None:
                made: Any = named_key(self.key, session.key) | bounds | values_of(self.aggregated, session.contents)
                waiting += self._send(made, end - 1)
                continue
            ordered = sorted(session.contents, key=lambda one: one[0])
            made = self._window(session.key, bounds, [x for _, x, _ in ordered])
            waiting += self._send(made, end - 1, [each for _, _, held in session.contents for each in held or ()])
            for _, _, held in session.contents:
                self._release_refs(held)
        return waiting

    # --- state ---

    def keys_of(self, failed: Collection[Receipt]) -> list[Hashable]:
        """Return the keys of sessions that hold any of these receipts."""
        if self._add is not None:
            return []
        among = set(failed)
        return [
            (serial,)
            for serial, session in self._sessions.items()
            if not among.isdisjoint(one for _, _, held in session.contents for one in receipts(held))
        ]

    def stored_state(self, key: Any) -> Any:
        """Return what to store of a session, or ABSENT."""
        if key is PROGRESS:
            return self.watermark.stored(), self._serial
        if (session := self._sessions.get(key[0])) is None:
            return ABSENT
        contents = session.contents
        if self._add is None:
            contents = [(time, x, as_origins(held)) for time, x, held in contents]
        return session.key, session.first, session.last, contents

    def restore_states(self, states: Mapping[Any, Any], ghosts: Ghosts) -> None:
        """Set all sessions."""
        for stored, value in sorted(states.items(), key=lambda item: item[0] or (0,)):
            if stored is PROGRESS:
                progress, self._serial = value
                self.watermark.restore(progress)
                continue
            key, first, last, contents = value
            if self._add is None:
                contents = [(time, x, as_metadata(origins, ghosts)) for time, x, origins in contents]
                for _, _, held in contents:
                    self._retain_refs(held)
            self._sessions[stored[0]] = _Session(key, first, last, contents)
            self._by_key.setdefault(key, []).append(stored[0])
            self._ends.append((last + self.gap_ms, stored[0]))
        heapify(self._ends)


trust(session_window, keeps=True)
ends_runs(session_window)
expects_results(session_window, "key", "by")
remembers(session_window, keyed, parameters=["gap_ms", "aggregations", "key"], lasts=True)
