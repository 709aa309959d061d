"""Entries, split for the partitions of a topic: small entries by a field, frames by their rows."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from tasks.codec.records import as_dict, is_record
from tasks.codec.values import is_frame, is_pandas, short_name
from tasks.errors import EncodeError
from tasks.reservoir.partition_hash import partition_for, partitions_for
from tasks.reservoir.partitions import Partitioning

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["split"]

Keys = tuple[Any, Any]
"""Of each row the position of its key among the keys, -1 for a missing one; and the keys."""

_LARGE = 2**20  # bytes of a column of keys whose partitions are not remembered
_MAX_BYTES = 2**31  # of another library's frame, which may be a query's result; the encoder has limits of its own


def split(fields: Any, by: Partitioning) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield an entry as its parts: the number of a partition, and the fields that belong there.

    fields    with a field `by.key`: the entry is one part. Otherwise its frames are split by rows, by their column or index level
              `by.key`; rows keep their order, index and dtypes, and each part has all other fields. An entry whose frames have no
              rows is one part, in the partition of the missing key
    raises    EncodeError: neither the entry nor each of its frames has the key, or a key is of a kind that has no partition
    """
    if not isinstance(fields, Mapping) and is_record(fields):
        fields = as_dict(fields)
    if not isinstance(fields, Mapping):
        yield 0, fields  # refused by the encoder
        return
    if by.key in fields and not is_frame(fields[by.key]):
        yield _partition(fields[by.key], by), fields
        return
    frames = {name: _Rows(value, name, by) for name, value in fields.items() if is_frame(value)}
    if not frames:
        msg = (
            f"expected the field {short_name(by.key)}, the key of the topic's partitions, got an entry without it; nothing was pushed; "
            "add the field, or use a topic with another key"
        )
        raise EncodeError(msg)
    numbers = sorted({n for rows in frames.values() for n in rows.partitions}) or [_partition(None, by)]
    for n in numbers:
        yield n, {**fields, **{name: rows.of(n) for name, rows in frames.items()}}


def _partition(key: Any, by: Partitioning) -> int:
    try:
        return partition_for(key, by.count)
    except EncodeError as error:
        msg = f"field {short_name(by.key)}: {error}"
        raise EncodeError(msg) from error


class _Rows:
    """The rows of one frame, by partition."""

    def __init__(self, frame: Any, name: str, by: Partitioning) -> None:
        import numpy as np  # noqa: PLC0415 - see `_opened`

        self._frame, self._ordered, column = _opened(frame, by.key)
        if column is None:
            msg = (
                f"field {short_name(name)}: expected a frame with one column {short_name(by.key)}, the key of the topic's partitions, got "
                "one without it, or with several; nothing was pushed; add the column, or use a topic with another key"
            )
            raise EncodeError(msg)
        numbers = _numbers(column, by, name)
        counts = np.bincount(numbers, minlength=by.count)
        self.partitions: list[int] = np.flatnonzero(counts).tolist()
        """The partitions to which rows belong."""
        self._stops = [0, *np.cumsum(counts).tolist()]
        # Stable, so that the rows of a partition keep their order. A filter for each partition would take five times as long.
        self._order = np.argsort(numbers, kind="stable")

    def of(self, n: int) -> Any:
        """Return the frame with the rows of partition `n` only."""
        return self._frame if self.partitions == [n] else self._part(self._stops[n], self._stops[n + 1])

    @cached_property
    def _part(self) -> Callable[[int, int], Any]:
        return self._ordered(self._order)


def _opened(frame: Any, key: str) -> tuple[Any, Callable[[Any], Callable[[int, int], Any]], Any]:
    """Return a frame that can be read several times, a function that puts its rows in another order, and the column of its keys.

    The function takes the positions of the rows, and returns another one: from a start and a stop to these rows as a frame.

    Imports only libraries that the frame itself has loaded, and pyarrow.
    """
    if is_pandas(frame, "DataFrame"):
        from tasks.codec.frame_parts import OrderedFrame  # noqa: PLC0415 - half a second that plain values do not need

        return frame, lambda order: OrderedFrame(frame, order).part, _pandas_column(frame, key)
    import pyarrow as pa  # noqa: PLC0415 - as above

    if isinstance(frame, pa.Table):
        return frame, lambda order: _sliced(_taken(frame, order)), _arrow_column(frame, key)
    from tasks.codec.arrow_frames import read_table  # noqa: PLC0415 - as above

    if type(frame).__module__.startswith("polars.") and type(frame).__name__ == "DataFrame":
        column = frame.select(key) if frame.columns.count(key) == 1 else None
        column = None if column is None else _arrow_column(read_table(column, max_bytes=_MAX_BYTES), key)
        return frame, lambda order: _sliced(frame[order]), column
    table = read_table(frame, max_bytes=_MAX_BYTES)

    def ordered(order: Any) -> Callable[[int, int], Any]:
        part = _sliced(_taken(table, order))
        return lambda start, stop: _Stream(part(start, stop))

    return _Stream(table), ordered, _arrow_column(table, key)


def _sliced(frame: Any) -> Callable[[int, int], Any]:
    return lambda start, stop: frame.slice(start, stop - start)


def _taken(table: "pa.Table", order: Any) -> "pa.Table":
    import pyarrow as pa  # noqa: PLC0415 - see `_opened`

    try:
        return table.take(pa.array(order))
    except pa.ArrowNotImplementedError:  # pyarrow 26 takes no rows of views
        from tasks.codec.foreign_frames import plain_columns  # noqa: PLC0415 - see `_opened`

        return plain_columns(table).take(pa.array(order))


def _pandas_column(frame: "pd.DataFrame", key: str) -> Any:
    """Return the column or index level with the keys, text as an Arrow array; None if there is none, or several."""
    import pandas as pd  # noqa: PLC0415 - see `_opened`

    if key in frame.columns:
        column = frame[key]
        if isinstance(column, pd.DataFrame):
            return None
    elif list(frame.index.names).count(key) == 1:
        column = frame.index.get_level_values(key)
    else:
        return None
    if isinstance(column.dtype, pd.StringDtype) and column.dtype.storage == "pyarrow":
        import pyarrow as pa  # noqa: PLC0415 - see `_opened`

        return _one_chunk(pa.array(column.array))
    return column


def _arrow_column(table: "pa.Table", key: str) -> Any:
    return _one_chunk(table.column(key)) if table.column_names.count(key) == 1 else None


def _one_chunk(column: Any) -> "pa.Array":
    return column.combine_chunks() if hasattr(column, "chunks") else column


def _numbers(column: Any, by: Partitioning, name: str) -> Any:
    """Return an array of the partition of each row."""
    import pyarrow as pa  # noqa: PLC0415 - see `_opened`

    if isinstance(column, pa.StringArray | pa.LargeStringArray) and column.nbytes <= _LARGE:
        if column.offset:
            column = pa.concat_arrays([column])
        buffers = [None if each is None else each.to_pybytes() for each in column.buffers()]
        return _numbers_of_text(by.count, column.type, len(column), *buffers)
    codes, keys = _arrow_keys(column, by.key) if isinstance(column, pa.Array) else _pandas_keys(column, by.key)
    try:
        return _numbers_of_keys(codes, keys, by.count)
    except EncodeError as error:
        msg = f"field {short_name(name)}, column {short_name(by.key)}: {error}"
        raise EncodeError(msg) from error


@lru_cache(maxsize=16)
def _numbers_of_text(count: int, kind: "pa.DataType", length: int, *buffers: bytes | None) -> Any:
    """Return the partitions of the texts in Arrow's buffers: most snapshots have the keys of the one before."""
    import pyarrow as pa  # noqa: PLC0415 - see `_opened`

    column = pa.Array.from_buffers(kind, length, [None if each is None else pa.py_buffer(each) for each in buffers])
    return _numbers_of_keys(*_arrow_keys(column, ""), count)


def _numbers_of_keys(codes: Any, keys: Any, count: int) -> Any:
    """Return the partition of each row; see `Keys`."""
    import numpy as np  # noqa: PLC0415 - see `_opened`

    # The code -1 is the last position. Of at most 256 partitions, so that they are sorted by radix.
    return np.array([*partitions_for(keys, count), partition_for(None, count)], dtype=np.uint8)[codes]


def _pandas_keys(column: Any, key: str) -> Keys:
    import pandas as pd  # noqa: PLC0415 - see `_opened`

    try:
        codes, keys = pd.factorize(column)
    except TypeError as error:  # lists and dicts
        raise _no_keys(key) from error
    # Iterating an array of numpy or pandas makes a scalar of theirs of each number.
    return codes, keys.tolist() if getattr(keys.dtype, "kind", "") in "biuf" else keys


def _arrow_keys(column: "pa.Array", key: str) -> Keys:
    import pyarrow as pa  # noqa: PLC0415 - see `_opened`

    try:
        encoded: Any = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        return codes, encoded.dictionary.to_pylist()
    except pa.ArrowException as error:
        raise _no_keys(key) from error


def _no_keys(key: str) -> EncodeError:
    return EncodeError(
        f"column {short_name(key)}: expected keys that can be compared, got lists or other nested values; nothing was pushed; choose "
        "another column as the key"
    )


class _Stream:
    """An Arrow table that is encoded like the frame of another library that it was read from."""

    def __init__(self, table: "pa.Table") -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)
