"""Frames, series, indexes and tables come back from the codec equal, or are refused."""

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.codec import decode, encode, encode_fields
from tasks.errors import EncodeError, SettingsError
from tests.support.values import (
    KEPT,
    assert_same,
    columns,
    foreign_object_column,
    frames,
    indexes,
    names,
    refused_column,
)


@given(frames())
def test_a_frame_comes_back_equal_or_is_refused(frame: pd.DataFrame) -> None:
    try:
        data = encode(frame)
    except EncodeError as error:
        assert "object" in str(error) or "missing" in str(error)  # noqa: PT017 - mixed labels and such
        return
    assert_same(decode(data), frame)


@given(frames(lambda n: foreign_object_column(n) | refused_column(n) | columns(n)))
def test_a_frame_of_anything_comes_back_equal_or_is_refused(frame: pd.DataFrame) -> None:
    try:
        data = encode(frame)
    except EncodeError:
        return
    assert_same(decode(data), frame)


@given(frames(lambda n: foreign_object_column(n) | columns(n)))
def test_a_frame_is_the_same_bytes_where_pandas_gives_no_arrays_but_of_its_series(frame: pd.DataFrame) -> None:
    def outcome() -> Any:
        try:
            return encode(frame)
        except EncodeError as error:
            return str(error)

    at_once = outcome()
    with pytest.MonkeyPatch.context() as without:
        without.delattr(pd.DataFrame, "_iter_column_arrays")
        assert outcome() == at_once


@pytest.mark.parametrize("build", [*KEPT], ids=lambda build: build.__name__)
@given(data=st.data())
def test_a_series_of_each_supported_dtype_comes_back_equal(build: Any, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 6))
    array = data.draw(build(n))
    series = pd.Series(array, dtype=array.dtype, name=data.draw(names))
    assert_same(decode(encode(series)), series)


@given(data=st.data())
def test_an_index_comes_back_equal_or_is_refused(data: st.DataObject) -> None:
    index = data.draw(indexes(data.draw(st.integers(0, 6))))
    try:
        encoded = encode(index)
    except EncodeError as error:
        assert "missing" in str(error)  # noqa: PT017
        return
    assert_same(decode(encoded), index)


def test_column_names_found_twice_are_refused_by_name() -> None:
    with pytest.raises(EncodeError, match=r"^field 'x': column 'a': expected unique column names"):
        encode_fields({"x": pd.DataFrame([[1, 2]], columns=["a", "a"])})


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (pd.DataFrame({"a": [1, "x"], "b": [2, "y"]}).T, "column 0: "),
        (pd.DataFrame({"ok": [1, 2], "mixed": [1, "x"]}), "column 'mixed': "),
        (pd.DataFrame({"a": pd.Series([1, 2], dtype=object)}), "column 'a': "),
        (pd.DataFrame({"a": pd.Series([True, None], dtype=object)}), "column 'a': "),
        (pd.DataFrame({"a": ["x"]}, index=pd.Index([1], dtype=object)), "index: "),
        (pd.DataFrame({"a": pd.Series([dt.time(1, tzinfo=dt.UTC)])}), "column 'a': "),
    ],
)
def test_a_column_of_mixed_objects_is_refused_with_its_name_and_the_cure(frame: pd.DataFrame, said: str) -> None:
    with pytest.raises(EncodeError) as caught:
        encode_fields({"x": frame})
    assert str(caught.value).startswith(f"field 'x': {said}expected")
    assert "use " in str(caught.value)


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(),
        pd.DataFrame(index=range(3)),
        pd.DataFrame({"a": [1.5]}).iloc[:0],
        pd.DataFrame({"a": pd.Categorical(["x"])}).iloc[:0],
        pd.DataFrame({"a": pd.Series([None, None], dtype=object)}),
        pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False),
        pd.DataFrame(np.arange(6).reshape(3, 2)),
        pd.DataFrame({"a": ["x"]}, index=pd.MultiIndex.from_tuples([(1,)], names=["k"])),
        pd.DataFrame({"a": ["x"]}, index=pd.DatetimeIndex(["2024-01-01"], tz="UTC", freq="D")),
    ],
)
def test_a_frame_of_an_unusual_shape_comes_back_equal(frame: pd.DataFrame) -> None:
    assert_same(decode(encode(frame)), frame)


def test_a_decoded_frame_and_series_can_be_written_to() -> None:
    frame = decode(encode(pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})))
    frame.loc[0, "a"] = 5
    frame.loc[0, "b"] = "z"
    series = decode(encode(pd.Series([1.0, 2.0])))
    series[0] = 5
    assert frame.iloc[0].tolist() == [5, "z"]
    assert series[0] == 5


def test_a_frame_whose_attrs_json_would_change_is_refused() -> None:
    frame = pd.DataFrame({"a": [1]})
    frame.attrs = {"source": [("x", 1)]}
    with pytest.raises(EncodeError, match=r"attrs\['source'\]\[0\]: .*tuple"):
        encode(frame)


class Quotes(pd.DataFrame):
    pass


def test_a_subclass_of_dataframe_is_refused() -> None:
    with pytest.raises(EncodeError, match="Quotes"):
        encode(Quotes({"a": [1]}))


@pytest.mark.parametrize(
    "table",
    [
        pa.table({}),
        pa.table({"a": [1, None], "b": [["x"], None], "c": [{"d": 1}, None]}),
        pa.table({"a": pa.array(["x", None, "x"]).dictionary_encode()}),
        pa.table({"a": pa.chunked_array([pa.array(["x"]).dictionary_encode(), pa.array(["y"]).dictionary_encode()])}),
        pa.table({"a": pa.array([], pa.map_(pa.string(), pa.int8()))}),
        pa.table({"a": [1]}).replace_schema_metadata({"pandas": "mine"}),
        pa.table([[1], [2]], names=["a", "a"]),
        pa.table({"a": pa.nulls(3), "b": pa.array(["x", None, "much longer than twelve bytes"], pa.string_view())}),
        pa.table({"a": pa.array([b"0" * 16], pa.uuid())}),
    ],
)
def test_a_table_comes_back_equal_with_its_metadata(table: pa.Table) -> None:
    got = decode(encode(table))
    assert got.equals(table, check_metadata=True)
    assert (got.schema.metadata or None) == (table.schema.metadata or None)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": pa.array([["x"]], pa.list_(pa.dictionary(pa.int8(), pa.string())))}),
        pa.table({"a": pa.RunEndEncodedArray.from_arrays([2], [1])}),
        pa.table({"a": [1]}).replace_schema_metadata({"sluice": "mine"}),
    ],
)
def test_a_table_that_no_outlet_would_read_is_refused(table: pa.Table) -> None:
    with pytest.raises(EncodeError, match="^field 'x': "):
        encode_fields({"x": table})


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_compression_changes_the_size_and_not_the_value(compression: str | None) -> None:
    frame = pd.DataFrame({"a": np.zeros(10_000), "b": ["x"] * 10_000})
    data = encode(frame, compression=compression)
    assert_same(decode(data), frame)
    assert (len(data) < 60_000) == (compression is not None)


def test_an_unknown_compression_is_an_error_of_the_settings() -> None:
    with pytest.raises(SettingsError, match="'gzip'"):
        encode(1, compression="gzip")


@pytest.mark.parametrize("name", ["sector", 5, 2.5, True])
def test_the_name_of_categories_comes_back(name: object) -> None:
    known = pd.Categorical(["a", None, "b"], categories=pd.Index(["b", "a"], name=name))
    frame = pd.DataFrame({"c": known}, index=pd.CategoricalIndex(known))
    for found in (decode(encode(frame))["c"].cat.categories, decode(encode(frame)).index.categories):
        pd.testing.assert_index_equal(found, pd.Index(["b", "a"], name=name), exact=True)
    pd.testing.assert_index_equal(decode(encode(frame["c"])).cat.categories, known.categories, exact=True)


@pytest.mark.parametrize("name", [("a", 1), pd.Timestamp("2026")])
def test_a_name_of_categories_that_is_no_text_or_number_is_refused(name: object) -> None:
    with pytest.raises(EncodeError, match="name of the categories: expected text or a number"):
        encode(pd.Series(pd.Categorical(["a"], categories=pd.Index(["a"], name=name))))


@pytest.mark.parametrize("freq", ["D", "2h", "W-TUE"])
def test_the_freq_of_categories_and_levels_comes_back(freq: str) -> None:
    days = pd.date_range("2026-01-06", periods=3, freq=freq, tz="UTC")
    categories = pd.Series(pd.Categorical.from_codes([2, 0, -1], categories=days))
    assert decode(encode(categories)).cat.categories.freq == days.freq
    whole = pd.DataFrame({"x": range(6)}, index=pd.MultiIndex.from_product([days, ["a", "b"]], names=["day", None]))
    for frame in (whole, whole.iloc[[5, 0]], whole[:0], whole.swaplevel()):
        found = decode(encode(frame))
        pd.testing.assert_frame_equal(found, frame)
        assert [getattr(level, "freq", None) for level in found.index.levels] == [
            getattr(level, "freq", None) for level in frame.index.levels
        ]
    missing = pd.DataFrame(
        {"x": [1]}, index=whole.index.set_codes([[-1], [0]], level=[0, 1], verify_integrity=False)[:1]
    )
    pd.testing.assert_frame_equal(decode(encode(missing)), missing)
