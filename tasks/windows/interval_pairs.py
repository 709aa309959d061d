"""The pairs of rows of two tables whose times lie within an interval of each other, by key."""

import numpy as np

__all__ = ["interval_pairs"]


def interval_pairs(
    left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray], *, before: int, after: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each pair the numbers of its left and its right row, by left row, then by the time of the right one.

    left, right     of each row the number of its key, from 0, and its time in ms
    before, after   how much older and newer than the left row the right one may be, in ms
    returns         two arrays; a left row without a partner comes once, with -1 as its right row
    """
    (left_key, left_time), (right_key, right_time) = left, right
    if not len(right_key):
        return np.arange(len(left_key)), np.full(len(left_key), -1)
    order = np.lexsort((right_time, right_key))
    # One number for key and time, in which the times of a key follow those of the key before.
    base = right_time.min()
    span = int(right_time.max() - base) + 1
    places = (right_key * span + right_time - base)[order]
    firsts = left_key * span + np.clip(left_time - before - base, 0, span)
    lasts = left_key * span + np.clip(left_time + after - base, -1, span - 1)
    begins, ends = np.searchsorted(places, firsts, "left"), np.searchsorted(places, lasts, "right")
    counts = np.maximum(ends - begins, 0)
    rows = np.maximum(counts, 1)
    nth = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
    at = np.repeat(begins, rows) + nth
    found = order[np.minimum(at, len(order) - 1)]
    return np.repeat(np.arange(len(left_key)), rows), np.where(np.repeat(counts, rows) > 0, found, -1)
