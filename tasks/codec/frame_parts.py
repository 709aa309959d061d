"""Parts of a pandas frame, each encoded as a frame of its own: the frame is packed and its rows are reordered once for all parts."""

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.codec.layouts import Layout
from tasks.codec.pandas_frames import pack_frame

__all__ = ["FramePart", "OrderedFrame"]

# Rows of these indexes are rows of an index of the same type; a range or a frequency would be lost, and levels would change.
_PLAIN_INDEXES = (pd.Index, pd.RangeIndex, pd.DatetimeIndex, pd.TimedeltaIndex)


class OrderedFrame:
    """A frame whose rows are put in another order, and then cut into parts.

    order    positions of rows
    """

    def __init__(self, frame: pd.DataFrame, order: np.ndarray[Any, Any]) -> None:
        self._frame, self._order = frame, order

    def part(self, start: int, stop: int) -> Any:
        """Return some rows in the new order: as a frame, or as a part that is encoded like that frame, but sooner."""
        if self._can_pack:
            return FramePart(self, start, stop)
        return self._ordered.iloc[start:stop]

    @cached_property
    def packed(self) -> tuple[pa.RecordBatch, Layout]:
        """The columns in the new order, and the layout of the whole frame.

        raises    EncodeError: it would not come back equal
        """
        frame = self._frame
        if type(frame.index) is pd.RangeIndex:
            frame = frame.set_axis(pd.Index(frame.index.to_numpy(), name=frame.index.name), axis=0)
        batch, layout = pack_frame(frame)
        return batch.take(pa.array(self._order)), layout

    @cached_property
    def _ordered(self) -> pd.DataFrame:
        return self._frame.take(self._order)

    @cached_property
    def _can_pack(self) -> bool:
        """Whether the columns of a part are parts of the columns: the form of objects depends on all values of a column."""
        frame, index = self._frame, self._frame.index
        if (
            type(frame) is not pd.DataFrame
            or type(index) not in _PLAIN_INDEXES
            or getattr(index, "freq", None) is not None
        ):
            return False
        return all(_is_plain(dtype) for dtype in [*frame.dtypes, index.dtype])


class FramePart:
    """Some rows of an `OrderedFrame`."""

    def __init__(self, whole: OrderedFrame, start: int, stop: int) -> None:
        self._whole, self._start, self._stop = whole, start, stop

    def packed(self) -> tuple[pa.RecordBatch, Layout]:
        """Return these rows as `pack_frame` returns a frame.

        raises    EncodeError: the frame would not come back equal
        """
        batch, layout = self._whole.packed
        rows = self._stop - self._start
        return batch.slice(self._start, rows), {**layout, "rows": rows}


def _is_plain(dtype: Any) -> bool:
    if isinstance(dtype, np.dtype):
        return dtype.kind in "biufmM"
    return isinstance(dtype, pd.StringDtype | pd.CategoricalDtype | pd.DatetimeTZDtype)
