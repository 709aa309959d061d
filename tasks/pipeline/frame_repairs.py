"""Repairs of the aggregations of `streamz.dataframe` 0.6.6.

A frame without rows, or with a missing value in a certain place, made all later results wrong; where state is kept, for good.
Each repair replaces methods of one `accumulate` node's aggregation in place. It may go once streamz has fixed the fault.
tests/state/test_streaming_dataframes.py compares every aggregation with pandas.
"""

import math
from collections.abc import Callable
from numbers import Number
from typing import Any

from streamz import Stream

__all__ = ["repair_aggregation"]

State = tuple[Any, ...]


def repair_aggregation(node: Stream) -> None:
    """Repair the aggregation of an `accumulate` node, if it has one of `streamz.dataframe`."""
    function: Any = getattr(node, "func", None)
    if not str(getattr(function, "__module__", "")).startswith("streamz.dataframe."):
        return
    arguments: dict[str, Any] = node.kwargs  # type: ignore[attr-defined]
    if function.__name__ == "_cumulative_accumulator":
        node.func = _cumulative(function)  # type: ignore[attr-defined]
    elif repair := _OF_AGGREGATIONS.get(type(arguments.get("agg")).__name__):
        repair(arguments["agg"])


def _cumulative(accumulate: Callable[..., State]) -> Callable[..., State]:
    """Keep the last total of each column, not that of the last row.

    fault    Its state was the last row of the result, which is missing where the frame's last value is: the next frame began anew.
    """

    def accumulator(state: Any, new: Any, op: str | None = None) -> State:
        last, result = accumulate(state, new, op=op)
        if len(new):
            known = result.ffill().iloc[-1:]
            last = known if len(state) == 0 else known.combine_first(state.set_axis(known.index))
        return last, result

    accumulator.__module__ = accumulate.__module__
    accumulator.__name__ = accumulate.__name__
    return accumulator


def _mean(agg: Any) -> None:
    """Count no row where there is none.

    fault    While it had counted no value, it set the count to 1, to avoid a division by zero, and added the next values to that.
    """

    def changed(state: State, rows: Any, sign: int) -> tuple[State, Any]:
        totals, counts = state
        if len(rows):
            totals, counts = totals + sign * rows.sum(), counts + sign * rows.count()
        return (totals, counts), _quotient(totals, counts)

    agg.on_new = lambda state, new: changed(state, new, 1)
    agg.on_old = lambda state, old: changed(state, old, -1)


def _mean_of_groups(agg: Any) -> None:
    """Return a missing value for a group without values.

    fault    A rounding error made the mean of a group infinite whose values had all left the window.
    """

    def quotients(change: Callable[..., Any]) -> Callable[..., tuple[State, Any]]:
        def changed(*arguments: Any, **options: Any) -> tuple[State, Any]:
            state, _ = change(*arguments, **options)
            return state, _quotient(*state)

        return changed

    agg.on_new, agg.on_old = quotients(agg.on_new), quotients(agg.on_old)


def _variance(agg: Any) -> None:
    """Return a missing value where there are too few values.

    fault    It raised ZeroDivisionError before the first value. A rounding error made the variance of one value infinite, and that
             of equal values negative, so that it had no root.
    """
    compute = agg._compute_result

    def result(total: Any, squares: Any, count: Any) -> Any:
        if isinstance(count, Number):
            return max(compute(total, squares, count), 0.0) if count > agg.ddof else math.nan
        return compute(total, squares, count).clip(lower=0.0).where(count > agg.ddof)

    agg._compute_result = result


def _weighted_mean(agg: Any) -> None:
    """Begin with the first row, and pass over missing values, as `pandas.DataFrame.ewm` does.

    fault    A first frame without rows made all results empty; a missing value made all later ones missing.
    """
    import numpy as np  # noqa: PLC0415 - a run without frames loads no numpy

    def on_new(state: State, new: Any) -> tuple[State, Any]:
        result, weight, is_first = state
        if begins := is_first or not len(result):
            result, weight = new.iloc[:1], 1.0
        rows = new.iloc[1 if begins else 0 :].to_numpy(float)
        mean, weights = np.atleast_1d(result.to_numpy(float).squeeze()), weight
        for row in rows:
            is_known, is_there = ~np.isnan(mean), ~np.isnan(row)
            old = np.where(is_known, weights * agg.old_wt_factor, weights)
            mixed = (old * mean + agg.new_wt * row) / (old + agg.new_wt)
            mean = np.where(is_there, np.where(is_known, mixed, row), mean)
            weights = np.where(is_known & is_there, old + agg.new_wt, old)
        if len(result):
            result = result.astype(float)
            result.iloc[0] = mean if result.ndim > 1 else mean[0]
        return (result, weights, not len(result)), result

    agg.on_new = on_new


def _quotient(totals: Any, counts: Any) -> Any:
    """Return means; a missing value where nothing was counted, also if a rounding error is left of the total."""
    if isinstance(counts, Number):
        return totals / counts if counts else math.nan
    return (totals / counts).where(counts > 0)


_OF_AGGREGATIONS: dict[str, Callable[[Any], None]] = {
    "EWMean": _weighted_mean,
    "GroupbyMean": _mean_of_groups,
    "GroupbyVar": _variance,
    "Mean": _mean,
    "Var": _variance,
}
