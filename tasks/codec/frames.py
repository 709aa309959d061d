"""Frames, arrays, tables, numbers of numpy and moments of time <-> Arrow IPC streams.

Columns are Arrow columns under their own names, so any Arrow reader can use them; what Arrow has no place
for (the kind, the index, exact dtypes) is JSON in the schema's metadata, under the key `sluice`. Streams
without that key are frames by somebody else.
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.codec.arrow_ipc import check_type, open_stream, write_stream
from tasks.codec.columns import freq_text, from_arrow, is_object, is_plain, object_bytes, plain_dtype, to_arrow
from tasks.codec.foreign_frames import foreign_frame
from tasks.codec.ipc_weight import Becomes, weigh
from tasks.codec.json_text import check_json, from_json, to_json
from tasks.codec.limits import Budget
from tasks.codec.scalars import Layout, is_scalar, pack_array, pack_scalar, unpack_array, unpack_scalar
from tasks.errors import EncodeError, PoisonEntryError

__all__ = ["can_encode", "decode_stream", "encode_stream", "weigh_stream"]

_KEY = b"sluice"
_ARROW_STRINGS = is_plain("string[pyarrow,nan]")  # pandas 3 keeps text in Arrow; before, each is a str
_ARROW_TEXT = {pa.string().id, pa.large_string().id, pa.string_view().id} if _ARROW_STRINGS else set()
_ARRAY, _OBJECTS = Becomes(), Becomes(1)
_INDEXES = (pd.Index, pd.RangeIndex, pd.DatetimeIndex, pd.TimedeltaIndex, pd.CategoricalIndex, pd.MultiIndex)


def can_encode(value: Any) -> bool:
    """Say whether a value is of a kind that travels as an Arrow IPC stream."""
    return type(value) in _PACKERS or is_scalar(value)


def encode_stream(value: Any, *, compression: str | None = None) -> bytes:
    """Return a value as one Arrow IPC stream that decodes to an equal one.

    raises    EncodeError: something in it would not come back equal; the message names it and the cure
    """
    packer = _PACKERS.get(type(value), pack_scalar)
    data, layout = packer(value)
    metadata = {**(data.schema.metadata or {}), _KEY: to_json(layout, "names or attrs")}
    return write_stream(data.replace_schema_metadata(metadata), compression=compression)


def decode_stream(data: bytes, budget: Budget) -> Any:
    """Return the value of one stream; without Sluice's metadata it is a DataFrame.

    raises    PoisonEntryError: refused; any other Exception: malformed
    """
    if not budget.is_weighed:
        weigh_stream(data, budget)
    return _decode_weighed(data, budget)


def _decode_weighed(data: bytes, budget: Budget) -> Any:
    table = open_stream(data)
    layout = _layout(table.schema)
    if layout is None:
        return foreign_frame(table)
    if table.num_columns and table.num_rows != layout["rows"]:
        msg = "expected as many rows as were written, got others"
        raise PoisonEntryError(msg)
    if unpacker := _UNPACKERS.get(layout["kind"]):
        return unpacker(table, layout, budget)
    return unpack_scalar(table.column(0), layout)


def weigh_stream(data: bytes, budget: Budget) -> None:
    """Spend from `budget` what decoding `data` takes, without doing it; raises as `decode_stream`."""
    schema = weigh(data, budget, becomes=lambda schema: _become(schema, budget))
    layout = _layout(schema)
    if layout and 0 in (shape := layout.get("shape") or ()):
        budget.spend_rows(max(shape))  # an array without bytes, whose rows are rows all the same
    for text in _nested_streams(layout):
        weigh_stream(base64.b64decode(text), budget)


def _nested_streams(part: Any) -> Iterator[str]:
    """Yield the streams that a layout holds: column labels and names that JSON has no words for."""
    if isinstance(part, dict):
        if "stream" in part:
            yield part["stream"]
        for key, inner in part.items():
            if key != "attrs":  # the user's own
                yield from _nested_streams(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _nested_streams(inner)


def _become(schema: pa.Schema, budget: Budget) -> Sequence[Becomes]:
    layout = _layout(schema)
    if layout is None:
        return [_OBJECTS if kind.id not in _ARROW_TEXT else _ARRAY for kind in schema.types]
    if not len(schema):  # no column to count them by
        budget.spend_rows(layout["rows"])
    words = layout.get("dtypes") or [""] * len(schema)
    becomes = [Becomes(object_bytes(word)) if is_object(word) else _ARRAY for word in words]
    if isinstance(index := layout.get("index"), dict) and index.get("multi"):
        first = len(words) - _index_width(index)  # a level has its values, and a code for each row
        becomes[first:] = [Becomes(one.objects, 8) for one in becomes[first:]]
    return becomes


def _layout(schema: pa.Schema) -> Layout | None:
    text = (schema.metadata or {}).get(_KEY)
    if text is None:
        return None
    layout = from_json(text.decode())
    if type(layout["rows"]) is not int or layout["rows"] < 0:
        msg = "expected a number of rows in the metadata of Sluice, got something else"
        raise PoisonEntryError(msg)
    return layout


# --- frames, series and indexes -------------------------------------------------------------------------


def _pack_frame(frame: pd.DataFrame) -> tuple[pa.RecordBatch, Layout]:
    columns = frame.columns
    if not columns.is_unique:
        name = columns[columns.duplicated()][0]
        msg = f"column {_short(name)}: expected unique column names, got it twice; rename one"
        raise EncodeError(msg)
    packed = [
        to_arrow(values, lambda name=name: f"column {_short(name)}")
        for name, values in zip(columns, _arrays(frame), strict=True)
    ]
    layout: Layout = {"kind": "DataFrame", "columns": _pack_labels(columns)}
    return _with_index(packed, [str(name) for name in columns], frame, layout)


def _pack_series(series: pd.Series) -> tuple[pa.RecordBatch, Layout]:
    packed = [to_arrow(_values(series), lambda: "values")]
    layout: Layout = {"kind": "Series", "name": _pack_name(series.name)}
    return _with_index(packed, ["" if series.name is None else str(series.name)], series, layout)


def _with_index(
    packed: list[tuple[pa.Array, str]],
    names: list[str],
    owner: Any,
    layout: Layout,
) -> tuple[pa.RecordBatch, Layout]:
    layout["rows"] = len(owner)
    layout["index"], index_arrays = _pack_index(owner.index)
    if not owner.flags.allows_duplicate_labels:
        layout["unique"] = True
    if owner.attrs:
        check_json(owner.attrs, "attrs")
        layout["attrs"] = owner.attrs
    packed += index_arrays
    names += [
        f"__index_level_{i}__" if name is None else str(name)
        for i, name in enumerate(owner.index.names[: len(index_arrays)])
    ]
    layout["dtypes"] = [word for _, word in packed]
    return pa.RecordBatch.from_arrays([array for array, _ in packed], names=names), layout


def _pack_lone_index(index: pd.Index) -> tuple[pa.RecordBatch, Layout]:
    inner, packed = _pack_index(index)
    layout = {"kind": "Index", "rows": len(index), "index": inner, "dtypes": [word for _, word in packed]}
    names = [f"__index_level_{i}__" if name is None else str(name) for i, name in enumerate(index.names[: len(packed)])]
    return pa.RecordBatch.from_arrays([array for array, _ in packed], names=names), layout


def _pack_index(index: pd.Index) -> tuple[Layout, list[tuple[pa.Array, str]]]:
    if type(index) not in _INDEXES:
        got = type(index).__name__
        msg = f"index: expected one that Arrow keeps, got a {got}; use reset_index() or astype(str)"
        raise EncodeError(msg)
    names = [_pack_name(name) for name in index.names]
    if type(index) is pd.RangeIndex:
        return {"range": [index.start, index.stop, index.step], "names": names}, []
    if isinstance(index, pd.MultiIndex):
        packed, with_freq = [], []
        for i, level in enumerate(index.levels):
            if getattr(level, "freq", None) is not None:  # as a dictionary, since not all of its values may be used
                with_freq.append(i)
                known = pd.Categorical.from_codes(index.codes[i], categories=level.rename(None))
                packed.append(to_arrow(known, lambda i=i: f"index level {i}"))
                continue
            values = index.get_level_values(i)
            if values.dtype != index.levels[i].dtype:
                expected = f"no missing {index.levels[i].dtype}"
                msg = f"index level {i}: expected {expected}, got some; use reset_index()"
                raise EncodeError(msg)
            packed.append(to_arrow(_values(values), lambda i=i: f"index level {i}"))
        return {"names": names, "multi": True, **({"with_freq": with_freq} if with_freq else {})}, packed
    layout: Layout = {"names": names}
    if (freq := getattr(index, "freq", None)) is not None:
        layout["freq"] = freq_text(freq, "index")
    return layout, [to_arrow(_values(index), lambda: "index")]


def _pack_labels(columns: pd.Index) -> Any:
    layout, packed = _pack_index(columns)
    if not packed or (
        type(columns) is pd.Index
        and packed[0][1] in ("object:str", "string[pyarrow,nan]")
        and not packed[0][0].null_count
    ):
        return {**layout, "dtype": packed[0][1] if packed else None}
    return {"stream": _to_text(encode_stream(columns))}


def _arrays(frame: pd.DataFrame) -> Iterator[Any]:
    """Yield the columns' values, if pandas lets us without the Series that `items` makes of each: a quarter of the time."""
    if iterate := getattr(frame, "_iter_column_arrays", None):
        for values in iterate():
            yield np.asarray(values) if isinstance(values.dtype, np.dtype) else values
    else:
        for i in range(frame.shape[1]):
            yield _values(frame.iloc[:, i])


def _values(series: pd.Series | pd.Index) -> Any:
    return series.to_numpy() if isinstance(series.dtype, np.dtype) else series.array


def _pack_name(name: Any) -> Any:
    if name is None or type(name) in (str, int, float, bool):
        return name
    if type(name) is tuple:
        return {"tuple": [_pack_name(part) for part in name]}
    if is_scalar(name):
        return {"stream": _to_text(encode_stream(name))}
    got = type(name).__name__
    msg = f"name of a column or index: expected text, a number or a moment, got {got}; rename it"
    raise EncodeError(msg)


def _unpack_name(name: Any, budget: Budget) -> Any:
    if not isinstance(name, dict):
        return name
    if "tuple" in name:
        return tuple(_unpack_name(part, budget) for part in name["tuple"])
    return _from_text(name["stream"], budget)


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_text(text: str, budget: Budget) -> Any:
    return _decode_weighed(base64.b64decode(text), budget)


def _unpack_frame(table: pa.Table, layout: Layout, budget: Budget) -> pd.DataFrame:
    labels = layout["columns"]
    words = layout["dtypes"]
    arrays = _index_width(layout["index"])
    count = len(words) - arrays
    frame = _columns(table.select(range(count)), words[:count])
    frame.index = _unpack_index(table, layout, budget)
    if "stream" in labels:
        frame.columns = _from_text(labels["stream"], budget)
    elif "range" in labels:
        frame.columns = _range(labels, budget)
    else:
        name = _unpack_name(labels["names"][0], budget)
        dtype = "object" if labels["dtype"] == "object:str" else plain_dtype("string[pyarrow,nan]")
        frame.columns = pd.Index(table.column_names[:count], dtype=dtype, name=name)
    return _finished(frame, layout)


def _columns(table: pa.Table, words: list[str]) -> pd.DataFrame:
    """Return a frame of the columns, labelled 0, 1, ...; the plain ones are made many at a time."""
    table = table.rename_columns([str(i) for i in range(len(words))])
    plain = [i for i, word in enumerate(words) if is_plain(word)]
    frame = table.select(plain).to_pandas(ignore_metadata=True, use_threads=False)
    for i, dtype in zip(plain, frame.dtypes, strict=True):
        if dtype != plain_dtype(words[i]):
            msg = "expected columns of the dtypes they were written with, got others"
            raise PoisonEntryError(msg)
    if len(plain) == len(words):
        return frame
    made = dict(zip(plain, (series for _, series in frame.items()), strict=True))
    for i, word in enumerate(words):
        if i not in made:
            array = from_arrow(table.column(i), word)
            made[i] = pd.Series(array, dtype=array.dtype, copy=False)  # else object text becomes str in pandas 3
    return pd.DataFrame({i: made[i] for i in range(len(words))})


def _finished(owner: Any, layout: Layout) -> Any:
    if attrs := layout.get("attrs"):
        owner.attrs = attrs
    return owner.set_flags(allows_duplicate_labels=False) if layout.get("unique") else owner


def _unpack_series(table: pa.Table, layout: Layout, budget: Budget) -> pd.Series:
    word, *_ = layout["dtypes"]
    values = from_arrow(table.column(0), word)
    index = _unpack_index(table, layout, budget)
    series = pd.Series(values, index=index, dtype=values.dtype, name=_unpack_name(layout["name"], budget), copy=False)
    return _finished(series, layout)


def _unpack_lone_index(table: pa.Table, layout: Layout, budget: Budget) -> pd.Index:
    return _unpack_index(table, layout, budget)


def _index_width(index: Layout) -> int:
    return 0 if "range" in index else len(index["names"])


def _unpack_index(table: pa.Table, layout: Layout, budget: Budget) -> pd.Index:
    index = layout["index"]
    if "range" in index:
        found = _range(index, budget)
        if len(found) != layout["rows"]:
            msg = "expected an index as long as the frame, got another"
            raise PoisonEntryError(msg)
        return found
    width = _index_width(index)
    start = table.num_columns - width
    arrays = [from_arrow(table.column(start + i), layout["dtypes"][start + i]) for i in range(width)]
    names = [_unpack_name(name, budget) for name in index["names"]]
    if index.get("multi"):
        return _multi_index(arrays, names, index.get("with_freq", []))
    (array,), (name,) = arrays, names
    found = pd.Index(array, dtype=array.dtype, name=name, copy=False)
    if freq := index.get("freq"):
        found.freq = freq  # checks every value against it  # pyright: ignore[reportAttributeAccessIssue]
    return found


def _multi_index(arrays: list[Any], names: list[Any], with_freq: list[int]) -> pd.MultiIndex:
    levels = {i: arrays[i] for i in with_freq}
    for i, known in levels.items():
        arrays[i] = known.astype(known.categories.dtype)
    found = pd.MultiIndex.from_arrays(arrays, names=names)
    for i, known in levels.items():
        found = found.set_levels(known.categories, level=i, verify_integrity=False)
        found = found.set_codes(known.codes, level=i, verify_integrity=False)
    return found


def _range(index: Layout, budget: Budget) -> pd.RangeIndex:
    found = pd.RangeIndex(*index["range"], name=_unpack_name(index["names"][0], budget))
    if len(found) > budget.limits.max_rows:
        msg = f"expected at most {budget.limits.max_rows:,} rows, got more"
        raise PoisonEntryError(msg)
    return found


def _short(name: Any) -> str:
    text = repr(name)
    return text if len(text) <= 40 else f"{text[:37]}..."  # noqa: PLR2004 - enough to find it


# --- Arrow's own ----------------------------------------------------------------------------------------


def _pack_table(table: pa.Table) -> tuple[pa.Table, Layout]:
    for field in table.schema:
        try:
            check_type(field.type)
        except EncodeError as error:
            msg = f"column {_short(field.name)}: {error}; use cast()"
            raise EncodeError(msg) from error
    if _KEY in (table.schema.metadata or {}):
        msg = "expected schema metadata without the key 'sluice', got it; use replace_schema_metadata()"
        raise EncodeError(msg)
    return table, {"kind": "Table", "rows": table.num_rows, "bare": table.schema.metadata is None}


def _unpack_table(table: pa.Table, layout: Layout, _: Budget) -> pa.Table:
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != _KEY}
    return table.replace_schema_metadata(None if layout["bare"] else metadata)


_PACKERS: dict[type, Callable[[Any], tuple[Any, Layout]]] = {
    pd.DataFrame: _pack_frame,
    pd.Series: _pack_series,
    **dict.fromkeys(_INDEXES, _pack_lone_index),
    np.ndarray: pack_array,
    pa.Table: _pack_table,
}
_UNPACKERS: dict[str, Callable[[pa.Table, Layout, Budget], Any]] = {
    "DataFrame": _unpack_frame,
    "Series": _unpack_series,
    "Index": _unpack_lone_index,
    "Table": _unpack_table,
    "ndarray": lambda table, layout, _: unpack_array(table.column(0), layout),
}
