"""The streamz node `join_asof`: each element of the left side with the last one before it of the right side."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Unpack

import pandas as pd
from streamz import Stream

from tasks.nodes.event_time import EventTimeOptions
from tasks.nodes.join_node import MS, How, JoinNode, Kept, place_of
from tasks.pipeline import trust
from tasks.pipeline.awaiting import expects_results
from tasks.state.remembering import keyed, remembers
from tasks.windows.durations import Duration, milliseconds

__all__ = ["join_asof"]

_KEY, _FOUND = "__key", "__found"


@Stream.register_api()
class join_asof(JoinNode):  # noqa: N801 - streamz names nodes like functions
    """Emit each element of the left stream with the last element of the right one that is not newer, by event time.

    As `pandas.merge_asof` over all elements at once, with `direction="backward"`; of several right elements of one time, the one that
    came last. A pair is emitted when the watermark shows that no other partner can come, as a `time_window` closes.

    right        the other stream, of the same source
    tolerance    how much older the partner may be; by default any age
    allow_exact_matches   whether a partner may have the time of the left element
    how          what is emitted without a partner: 'left', the element with None (in frames, missing values), or 'inner', nothing
    key          a field or column, a list of these, or (not for frames) a function: only elements of the same key are partners
    by, lateness, late, close_after, max_ahead, tz   as in `time_window`; `late` is 'dead_letter' or 'drop'
    emits        pairs (left, right), by event time; for frames the rows of the left frame, by time, with the columns of the right one
    raises       SettingsError: an option that cannot be used
    """

    _graphviz_shape = "diamond"

    def __init__(
        self,
        left: Stream,
        right: Stream,
        *,
        tolerance: Duration | None = None,
        allow_exact_matches: bool = True,
        how: How = "left",
        **options: Unpack[EventTimeOptions],
    ) -> None:
        self.before_ms = None if tolerance is None else milliseconds(tolerance, name="tolerance", may_be_zero=True)
        self.allow_exact_matches = allow_exact_matches
        super().__init__(left, right, how=how, **options)

    def partners(self, kept: list[Kept], time: int) -> Sequence[Kept]:
        """Return the last right element that is not newer."""
        last = self._last(kept, time)
        return kept[last : last + 1] if last >= 0 and not self._is_too_old(kept[last], time) else ()

    def first_needed(self, kept: list[Kept], horizon: int) -> int:
        """Return the position of the last one before the horizon, which may be a partner until a later one comes."""
        last = self._last(kept, horizon)
        return last + 1 if last >= 0 and self._is_too_old(kept[last], horizon) else last

    def _last(self, kept: list[Kept], time: int) -> int:
        bisect = bisect_right if self.allow_exact_matches else bisect_left
        return bisect(kept, time, key=place_of) - 1

    def _is_too_old(self, one: Kept, time: int) -> bool:
        return self.before_ms is not None and time - one[0] > self.before_ms

    def rows_needed(self, rows: Any, horizon: int) -> pd.DataFrame:
        """Return of each key the last row before the horizon, and later rows."""
        is_old = rows[MS] <= horizon if self.allow_exact_matches else rows[MS] < horizon
        old, keys = rows[is_old], self._key_names
        last = old.groupby(keys, sort=False, dropna=False, observed=True).tail(1) if keys else old.tail(1)
        if self.before_ms is not None:
            last = last[last[MS] >= horizon - self.before_ms]
        return pd.concat([last, rows[~is_old]], ignore_index=True)

    def joined_rows(self, left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
        """Return left rows with the columns of their partners."""
        left_key, right_key = self.key_codes(left, right)
        right = right.drop(columns=[*self._key_names, *([self.by] if isinstance(self.by, str) else [])])
        merged: Any = pd.merge_asof(
            left.assign(**{_KEY: left_key}),
            right.assign(**{_KEY: right_key, _FOUND: True}),
            on=MS,
            by=_KEY,
            tolerance=self.before_ms,
            allow_exact_matches=self.allow_exact_matches,
            suffixes=("", "_right"),
        )
        if self.how == "inner":
            merged = merged[merged[_FOUND].notna()].reset_index(drop=True)
        return merged.drop(columns=[_KEY, _FOUND])


trust(join_asof, keeps=True)
expects_results(join_asof, "key", "by")
remembers(join_asof, keyed, parameters=["before_ms", "allow_exact_matches", "how", "key"], lasts=True)
