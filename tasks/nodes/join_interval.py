"""The streamz node `join_interval`: pairs of elements of two streams whose times are close to each other."""

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
from tasks.windows.interval_pairs import interval_pairs

__all__ = ["join_interval"]


@Stream.register_api()
class join_interval(JoinNode):  # noqa: N801 - streamz names nodes like functions
    """Emit each pair of a left and a right element of one key whose event times are close to each other.

    A right element is a partner if its time is at most `before` older and at most `after` newer than that of the left one, bounds
    included. An element may have several partners, on both sides. The pairs of a left element are emitted when the watermark shows
    that no other partner can come, so that their event time, that of the left element, only grows.

    right        the other stream, of the same source
    before       how much older than the left element a partner may be, such as '10s'; by default not at all
    after        how much newer; left elements wait for so long
    how          what is emitted without a partner: 'inner', nothing, or 'left', the element with None (in frames, missing values)
    key          a field or column, a list of these, or (not for frames) a function: only elements of the same key are partners
    by, lateness, late, close_after, max_ahead, tz   as in `time_window`; `late` is 'dead_letter' or 'drop'
    emits        pairs (left, right), by the time of the left element, then of the right one. For each left frame a frame with a row for
                 each pair of rows, in this order: the columns of the left row, then those of the right one, with the suffix '_right' if
                 both have them
    raises       SettingsError: an option that cannot be used
    """

    _graphviz_shape = "diamond"

    def __init__(
        self,
        left: Stream,
        right: Stream,
        *,
        before: Duration = 0,
        after: Duration = 0,
        how: How = "inner",
        **options: Unpack[EventTimeOptions],
    ) -> None:
        self._before = self.before_ms = milliseconds(before, name="before", may_be_zero=True)
        self.after_ms = milliseconds(after, name="after", may_be_zero=True)
        super().__init__(left, right, how=how, **options)

    def partners(self, kept: list[Kept], time: int) -> Sequence[Kept]:
        """Return the right elements around a time."""
        end = bisect_right(kept, time + self.after_ms, key=place_of)
        return kept[bisect_left(kept, time - self._before, key=place_of) : end]

    def first_needed(self, kept: list[Kept], horizon: int) -> int:
        """Return the position of the first element that is not too old for the horizon."""
        return bisect_left(kept, horizon - self._before, key=place_of)

    def rows_needed(self, rows: pd.DataFrame, horizon: int) -> Any:
        """Return the rows that are not too old for the horizon."""
        return rows[rows[MS] >= horizon - self._before].reset_index(drop=True)

    def joined_rows(self, left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
        """Return a row for each pair."""
        left_key, right_key = self.key_codes(left, right)
        of_left, of_right = interval_pairs(
            (left_key, left[MS].to_numpy()), (right_key, right[MS].to_numpy()), before=self._before, after=self.after_ms
        )
        if self.how == "inner":
            of_left, of_right = of_left[of_right >= 0], of_right[of_right >= 0]
        rows = left.take(of_left).reset_index(drop=True)
        partners = right.drop(columns=[MS, *self._key_names]).reindex(of_right).reset_index(drop=True)
        both_have = {name: f"{name}_right" for name in partners.columns if name in rows.columns}
        return pd.concat([rows, partners.rename(columns=both_have)], axis="columns")


trust(join_interval, keeps=True)
expects_results(join_interval, "key", "by")
remembers(join_interval, keyed, parameters=["before_ms", "after_ms", "how", "key"], lasts=True)
