"""Entries, split for the partitions of a topic: small entries by a field, frames by their rows."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tasks.codec.records import as_dict, is_record
from tasks.codec.values import is_frame, is_pandas, short_name
from tasks.errors import EncodeError
from tasks.reservoir.partition_hash import partition_for
from tasks.reservoir.partitions import Partitioning

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["split"]

Keys = tuple[Any, Any]
"""Of each row the position of its key among the keys, -1 for a missing one; and the keys."""

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
    numbers = sorted({n for rows in frames.values() for n in rows.partitions()}) or [_partition(None, by)]
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
        self._frame, self._take, keys = _opened(frame, by.key)
        if keys is None:
            msg = (
                f"field {short_name(name)}: expected a frame with one column {short_name(by.key)}, the key of the topic's partitions, got "
                "one without it, or with several; nothing was pushed; add the column, or use a topic with another key"
            )
            raise EncodeError(msg)
        self._numbers = _numbers(*keys, by, name)

    def partitions(self) -> list[int]:
        """Return the partitions to which rows belong."""
        import numpy as np  # noqa: PLC0415 - see `_opened`

        return np.unique(self._numbers).tolist()

    def of(self, n: int) -> Any:
        """Return the frame with the rows of partition `n` only."""
        mask = self._numbers == n
        return self._frame if mask.all() else self._take(self._frame, mask)


def _opened(frame: Any, key: str) -> tuple[Any, Callable[[Any, Any], Any], Keys | None]:
    """Return a frame that can be read several times, a function that takes rows of it by a mask, and its keys.

    Imports only libraries that the frame itself has loaded, and pyarrow.
    """
    if is_pandas(frame, "DataFrame"):
        return frame, lambda frame, mask: frame[mask], _pandas_keys(frame, key)
    import pyarrow as pa  # noqa: PLC0415 - half a second that plain values do not need

    if isinstance(frame, pa.Table):
        return frame, _masked, _arrow_keys(frame, key)
    from tasks.codec.arrow_frames import read_table  # noqa: PLC0415 - as above

    if type(frame).__module__.startswith("polars.") and type(frame).__name__ == "DataFrame":
        keys = frame.select(key) if frame.columns.count(key) == 1 else None
        keys = None if keys is None else _arrow_keys(read_table(keys, max_bytes=_MAX_BYTES), key)
        return frame, lambda frame, mask: frame.filter(mask.tolist()), keys
    table = read_table(frame, max_bytes=_MAX_BYTES)
    return _Stream(table), lambda frame, mask: _Stream(_masked(frame.table, mask)), _arrow_keys(table, key)


def _masked(table: "pa.Table", mask: Any) -> "pa.Table":
    import pyarrow as pa  # noqa: PLC0415 - see `_opened`

    try:
        return table.filter(pa.array(mask))
    except pa.ArrowNotImplementedError:  # pyarrow 26 takes no rows of views
        from tasks.codec.foreign_frames import plain_columns  # noqa: PLC0415 - see `_opened`

        return plain_columns(table).filter(pa.array(mask))


def _numbers(codes: Any, keys: Any, by: Partitioning, name: str) -> Any:
    """Return an array of the partition of each row; see `Keys`."""
    import numpy as np  # noqa: PLC0415 - see `_opened`

    try:
        # The code -1 is the last position.
        found = np.array([*(partition_for(key, by.count) for key in keys), partition_for(None, by.count)])
    except EncodeError as error:
        msg = f"field {short_name(name)}, column {short_name(by.key)}: {error}"
        raise EncodeError(msg) from error
    return found[codes]


def _pandas_keys(frame: "pd.DataFrame", key: str) -> Keys | None:
    import pandas as pd  # noqa: PLC0415 - see `_opened`

    if key in frame.columns:
        column = frame[key]
        if isinstance(column, pd.DataFrame):
            return None
    elif list(frame.index.names).count(key) == 1:
        column = frame.index.get_level_values(key)
    else:
        return None
    try:
        return pd.factorize(column)
    except TypeError as error:  # lists and dicts
        raise _no_keys(key) from error


def _arrow_keys(table: "pa.Table", key: str) -> Keys | None:
    import pyarrow as pa  # noqa: PLC0415 - see `_opened`

    if table.column_names.count(key) != 1:
        return None
    column = table.column(key).combine_chunks()
    try:
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        codes = column.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        return codes, column.dictionary.to_pylist()
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
