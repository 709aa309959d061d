"""Any object with Arrow's PyCapsule protocol is a frame, and a pipeline gets it as pandas, polars or Arrow."""

import datetime as dt
import sys
from typing import Any

import arro3.core
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.codec import Decoding, Limits, decode, encode, encode_fields
from tasks.errors import EncodeError, PoisonEntryError, SettingsError
from tests.support.sameness import assert_same
from tests.support.values import frames, stream, text


class OnlyAStream:
    """A frame that implements only the protocol."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.reads = 0

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        self.reads += 1
        return self.table.__arrow_c_stream__(requested_schema)


def read(data: bytes, frames: Any) -> Any:
    return decode(data, decoding=Decoding(frames=frames))


# The protocol's names are C strings, which end at a NUL.
column_names = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def same_table(one: pa.Table, other: pa.Table) -> bool:
    """Return whether two tables have the same schema and values; NaN equals NaN, unlike in `equals`."""
    return one.schema.equals(other.schema, check_metadata=True) and stream(one) == stream(other)


def polars_columns(n: int) -> st.SearchStrategy[pl.Series]:
    kinds: list[tuple[Any, st.SearchStrategy[Any]]] = [
        (pl.Int64, st.integers(-(2**63), 2**63 - 1)),
        (pl.UInt8, st.integers(0, 255)),
        (pl.Float64, st.floats()),
        (pl.Boolean, st.booleans()),
        (pl.String, text),
        (pl.Binary, st.binary()),
        (pl.Date, st.dates()),
        (pl.Time, st.times()),
        (pl.Datetime("us"), st.datetimes()),
        (pl.Duration("us"), st.timedeltas(dt.timedelta(days=-999), dt.timedelta(days=999))),
        (pl.Decimal(20, 2), st.decimals(-1000, 1000, places=2)),
        (pl.Categorical, st.sampled_from(["a", "b", "much longer than twelve bytes"])),
        (pl.Enum(["low", "high"]), st.sampled_from(["low", "high"])),
        (pl.List(pl.Int64), st.lists(st.none() | st.integers(-5, 5), max_size=3)),
        (pl.Array(pl.Int8, 2), st.lists(st.integers(0, 5), min_size=2, max_size=2)),
        (pl.Struct({"x": pl.Int64, "y": pl.String}), st.fixed_dictionaries({"x": st.integers(0, 9), "y": text})),
        (pl.Null, st.none()),
    ]
    return st.one_of(
        [
            st.lists(st.none() | values, min_size=n, max_size=n).map(
                lambda items, kind=kind: pl.Series(items, dtype=kind)
            )
            for kind, values in kinds
        ]
    )


@st.composite
def polars_frames(draw: st.DrawFn) -> pl.DataFrame:
    n = draw(st.integers(0, 5))
    names = draw(st.lists(column_names, unique=True, max_size=4))
    return pl.DataFrame([draw(polars_columns(n)).alias(name) for name in names])


@given(polars_frames(), st.sampled_from([None, "lz4", "zstd"]))
def test_polars_frames_come_back_equal_as_polars(frame: pl.DataFrame, compression: str | None) -> None:
    found = read(encode(frame, compression=compression), "polars")
    assert found.schema == frame.schema
    assert found.equals(frame)


@given(polars_frames())
def test_frames_read_as_arrow_can_be_pushed_again_unchanged(frame: pl.DataFrame) -> None:
    table = read(encode(frame), "arrow")
    assert isinstance(table, pa.Table)
    assert same_table(table, pa.table(frame) if frame.width else pa.table({}))
    again = decode(encode(table))  # a Table stays one with frames='pandas'
    assert same_table(again, table)


@given(frames())
def test_frames_of_pandas_give_their_columns_and_index_to_arrow(frame: pd.DataFrame) -> None:
    try:
        data = encode(frame)
    except EncodeError:
        return
    table = read(data, "arrow")
    width = 0 if type(frame.index) is pd.RangeIndex else frame.index.nlevels
    assert table.num_columns == frame.shape[1] + width
    assert len(set(table.column_names)) == table.num_columns
    assert table.num_rows == (len(frame) if table.num_columns else 0)
    assert table.schema.metadata is None
    for i in range(frame.shape[1]):
        if frame.dtypes.iloc[i] in (np.dtype("i8"), np.dtype("bool"), np.dtype("M8[ns]")):
            np.testing.assert_array_equal(table.column(i).to_numpy(), frame.iloc[:, i].to_numpy())


@given(frames(), st.sampled_from(["pandas", "polars", "arrow"]))
def test_only_frames_depend_on_the_choice_of_frames(frame: pd.DataFrame, choice: Any) -> None:
    for value in (frame.index, {"a": [1]}, b"x", np.arange(3), pd.Timestamp("2026"), pd.Series([1.5])):
        try:
            data = encode(value)
        except EncodeError:
            continue
        assert_same(read(data, choice), value)


@pytest.mark.parametrize(
    "frame",
    [
        OnlyAStream(pa.table({"a": [1, 2]})),
        pl.DataFrame({"a": [1, 2]}),
        arro3.core.Table.from_pydict({"a": arro3.core.Array([1, 2], arro3.core.DataType.int64())}),
        pa.record_batch({"a": [1, 2]}),
        pa.RecordBatchReader.from_batches(pa.schema([("a", "i8")]), [pa.record_batch({"a": pa.array([1, 2])})] * 0),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_a_frame_of_any_library_is_read_as_each_kind(frame: Any) -> None:
    data = encode(frame)
    found = read(data, "arrow")
    assert_same(read(data, "pandas"), found.to_pandas())
    assert read(data, "polars").equals(pl.DataFrame(found))
    assert found["a"].to_pylist() in ([1, 2], [])


def test_a_stream_is_read_once_and_no_further_than_the_limit() -> None:
    batch = pa.record_batch({"a": np.zeros(1000)})
    read_so_far = []

    def batches() -> Any:
        for n in range(1000):
            read_so_far.append(n)
            yield batch

    endless = pa.RecordBatchReader.from_batches(batch.schema, batches())
    with pytest.raises(
        EncodeError, match="^field 'x': expected a frame of at most 20,000 bytes, got a RecordBatchReader"
    ):
        encode_fields({"x": endless}, limits=Limits(max_decoded_bytes=20_000))
    assert len(read_so_far) < 10
    once = OnlyAStream(pa.table({"a": [1]}))
    encode_fields({"x": once})
    assert once.reads == 1


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.Series([1]), "got a Series with others or without columns; use to_frame()"),
        (pa.chunked_array([[1]]), "use to_frame()"),
        (pl.DataFrame({"a": pl.Series([1], dtype=pl.Int128)}), "got a DataFrame with others"),
        (OnlyAStream(pa.table({"a": pa.array([None], pa.month_day_nano_interval())})), "column 'a': expected numbers"),
        (OnlyAStream(pa.table({"a": [1]}).replace_schema_metadata({"sluice": "mine"})), "without the key 'sluice'"),
    ],
    ids=["series", "array", "int128", "interval", "metadata"],
)
def test_a_frame_that_no_outlet_would_read_is_refused_with_a_cure(frame: Any, message: str) -> None:
    with pytest.raises(EncodeError, match="^field 'x': ") as caught:
        encode_fields({"x": frame})
    assert message in str(caught.value)
    assert "use " in str(caught.value)


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=4))
def test_whole_numbers_beside_nulls_are_never_rounded_by_pandas(values: list[int | None]) -> None:
    table = pa.table(
        {
            "a": pa.array(values, "i8"),
            "in": pa.array([{"x": value} for value in values], pa.struct([("x", pa.int64())])),
        }
    )
    frame = decode(stream(table))
    for got, want in zip(frame["a"].tolist(), values, strict=True):
        assert pd.isna(got) if want is None else int(got) == want
    assert [row["x"] for row in frame["in"]] == values


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": pa.array([[2**60 + 1, None]], pa.list_(pa.int64()))}),
        pa.table({"a": pa.array([1_000_000_001], pa.time64("ns"))}),
    ],
    ids=["list", "time"],
)
def test_a_frame_that_pandas_would_change_is_poison_with_a_cure(table: pa.Table) -> None:
    with pytest.raises(PoisonEntryError, match="read the topic with frames='arrow'"):
        decode(stream(table))
    assert read(stream(table), "arrow").equals(table)


def test_a_frame_that_polars_cannot_hold_is_poison_with_a_cure() -> None:
    table = pa.table([[1], [2]], names=["a", "a"])
    with pytest.raises(PoisonEntryError, match="polars can hold.*read the topic with frames='arrow'"):
        read(encode(table), "polars")


def test_column_names_that_are_no_c_strings_never_reach_the_protocol() -> None:
    frame = OnlyAStream(pa.table({"a": [1]}))
    frame.columns = ["a\0b"]  # type: ignore[attr-defined] - as polars and DuckDB have them
    with pytest.raises(EncodeError, match="without the character NUL.*use rename()"):
        encode(frame)
    assert not frame.reads
    for table in (pa.table({"a\0b": [1]}), pa.table({"a": [{"b\0": 1}]})):
        with pytest.raises(PoisonEntryError, match="without the character NUL.*frames='arrow'"):
            read(encode(table), "polars")
        assert read(encode(table), "arrow").equals(table)


def test_unknown_frames_and_polars_that_is_not_installed_are_errors_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SettingsError, match="frames: expected 'pandas' or 'polars' or 'arrow', got 'spark'"):
        Decoding(frames="spark")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(SettingsError, match="pip install polars"):
        Decoding(frames="polars")
