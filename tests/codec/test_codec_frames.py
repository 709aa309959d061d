"""Frames, series, indexes and tables come back equal from the codec, or are refused."""

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.codec import Decoding, decode, encode, encode_fields
from tasks.errors import EncodeError, SettingsError
from tests.support.sameness import assert_same
from tests.support.values import (
    KEPT,
    columns,
    foreign_object_column,
    frames,
    indexes,
    names,
    nested_column,
    refused_column,
    stream,
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
    ("frame", "message"),
    [
        (pd.DataFrame({"a": [1, "x"], "b": [2, "y"]}).T, "column 0: "),
        (pd.DataFrame({"ok": [1, 2], "mixed": [1, "x"]}), "column 'mixed': "),
        (pd.DataFrame({"a": pd.Series([1, 2], dtype=object)}), "column 'a': "),
        (pd.DataFrame({"a": pd.Series([True, 1.5], dtype=object)}), "column 'a': "),
        (pd.DataFrame({"a": ["x"]}, index=pd.Index([1], dtype=object)), "index: "),
        (pd.DataFrame({"a": pd.Series([dt.time(1, tzinfo=dt.UTC)])}), "column 'a': "),
    ],
)
def test_a_column_of_mixed_objects_is_refused_with_its_name_and_the_cure(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(EncodeError) as caught:
        encode_fields({"x": frame})
    assert str(caught.value).startswith(f"field 'x': {message}expected")
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


@given(data=st.data())
def test_lists_dicts_and_arrays_in_a_column_come_back_equal(data: st.DataObject) -> None:
    cells = data.draw(nested_column(data.draw(st.integers(0, 4))))
    series = pd.Series(cells, dtype=object)
    try:
        encoded = encode(series)
    except EncodeError as error:  # mixed pairs and arrays have no JSON form either
        assert any(word in str(error) for word in ("tuple", "ndarray", "bytes", "date", "levels"))  # noqa: PT017
        return
    found = decode(encoded)
    assert_same_cells(found.tolist(), cells.tolist())


def assert_same_cells(got: list[Any], want: list[Any]) -> None:
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([[1, 2], None, []], pa.large_list(pa.int64())),
        ([{"a": 1, "b": "x"}, {"a": None, "b": "y"}], pa.struct([("a", pa.int64()), ("b", pa.large_string())])),
        ([[("k", 1.5)], []], pa.map_(pa.large_string(), pa.float64())),
        ([np.array([1.5, 2]), None], pa.large_list(pa.float64())),
        ([{"a": 1}, {"b": 2}], pa.large_string()),
        ([[1, 2.5, "x"]], pa.large_string()),
    ],
    ids=["list", "struct", "map", "array", "other keys", "mixed"],
)
def test_nested_cells_are_arrow_columns_of_their_own_type_or_json(cells: list[Any], kind: pa.DataType) -> None:
    column = np.empty(len(cells), dtype=object)
    column[:] = cells
    table = decode(encode(pd.DataFrame({"x": pd.Series(column, dtype=object)})), decoding=Decoding(frames="arrow"))
    assert table.schema.field("x").type == kind


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int64()),
        pa.large_list(pa.string()),
        pa.struct([("x", pa.int64()), ("y", pa.list_(pa.float64()))]),
        pa.map_(pa.string(), pa.int64()),
    ],
    ids=str,
)
def test_a_foreign_frame_with_nested_columns_can_be_pushed_again(kind: pa.DataType) -> None:
    values: dict[str, list[Any]] = {
        "list": [[1, 2], None, []],
        "large_list": [["a"], None, ["b", None]],
        "struct": [{"x": 2**60 + 1, "y": [0.5]}, None, {"x": None, "y": None}],
        "map": [[("a", 1)], None, []],
    }
    column = pa.array(values[str(kind).partition("<")[0]], kind)
    frame = decode(stream(pa.table({"x": column})))
    again = decode(encode(frame))
    assert_same_cells(again["x"].tolist(), frame["x"].tolist())


QUOTES = {
    "sh600000": {"name": "a", "now": 1.5, "volume": 3},
    "sz000001": {"name": "b", "now": 2.5, "volume": 2**60 + 1},
}


def test_frame_of_objects_is_encoded_after_infer_objects_with_a_notification() -> None:
    frame = pd.DataFrame(QUOTES).T
    notified: list[int] = []
    raw = encode_fields({"quotes": frame}, on_inferred=lambda: notified.append(1))
    found = decode(raw[b"quotes"])
    assert [str(dtype) for dtype in found.dtypes] == ["str", "float64", "int64"]
    assert found.to_dict("index") == QUOTES
    assert notified == [1]
    with pytest.raises(EncodeError, match="use infer_objects"):
        encode_fields({"quotes": frame})


@pytest.mark.parametrize(
    "column",
    [[1, "x"], [2**60 + 1, 0.5], [1, 2.5, [3]], [True, 1.5]],
    ids=["mixed", "large int beside float", "with a list", "bool beside float"],
)
def test_a_frame_that_infer_objects_would_change_or_leave_is_refused(column: list[Any]) -> None:
    frame = pd.DataFrame({"a": pd.Series(column, dtype=object)})
    with pytest.raises(EncodeError, match="^field 'x': column 'a': expected objects of one type"):
        encode_fields({"x": frame}, on_inferred=lambda: pytest.fail("it was changed"))


@given(st.lists(st.one_of(st.none(), st.integers(), st.floats(), st.booleans(), st.dates(), st.text()), max_size=4))
def test_values_are_equal_after_infer_objects_or_the_frame_is_refused(items: list[Any]) -> None:
    frame = pd.DataFrame({"a": pd.Series(items, dtype=object)})
    try:
        raw = encode_fields({"x": frame}, on_inferred=lambda: None)
    except EncodeError:
        return
    for got, want in zip(decode(raw[b"x"])["a"].tolist(), items, strict=True):
        assert got == want or (pd.isna(got) and pd.isna(want))
