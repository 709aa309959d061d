"""Arrow IPC streams of other programs are frames: polars' views, pandas with pyarrow dtypes, nulls, uuids."""

import uuid
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.codec import Limits, decode, encode
from tasks.errors import PoisonEntryError
from tests.support.sameness import assert_same
from tests.support.values import stream, text

COMPRESSIONS = pytest.mark.parametrize("compression", [None, "lz4", "zstd"])


def dictionary(
    values: list[Any], kind: pa.DataType, index: pa.DataType, *, ordered: bool = False
) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0, 1, None], index), pa.array(values, kind), ordered=ordered)


def same_text() -> pa.Array:
    """Return 500 views of one text of 1,000 bytes."""
    _, views, data = pa.array(["x" * 1000], pa.string_view()).buffers()
    return pa.Array.from_buffers(pa.string_view(), 500, [None, pa.py_buffer(views.to_pybytes() * 500), data])


@COMPRESSIONS
def test_a_frame_as_polars_writes_it_is_read(compression: str | None) -> None:
    table = pa.table(
        {
            "text": pa.array(["a", None, "much longer than twelve bytes"], pa.string_view()),
            "bytes": pa.array([b"a", None, b"\xff" * 30], pa.binary_view()),
            "category": dictionary(["a", "much longer than twelve bytes"], pa.string_view(), pa.uint32()),
            "enum": dictionary(["low", "high"], pa.string_view(), pa.uint8(), ordered=True),
            "list": pa.array([["a"], [], None], pa.large_list(pa.string_view())),
            "struct": pa.array([{"x": "u"}, None, {"x": None}], pa.struct([("x", pa.string_view())])),
            "nothing": pa.nulls(3),
        }
    )
    frame = decode(stream(table, compression=compression))
    assert frame["text"].tolist()[::2] == ["a", "much longer than twelve bytes"]
    assert frame["bytes"].tolist() == [b"a", None, b"\xff" * 30]
    assert frame["category"].tolist()[:2] == ["a", "much longer than twelve bytes"]
    assert (frame["enum"].cat.ordered, frame["enum"].cat.categories.tolist()) == (True, ["low", "high"])
    assert list(frame["list"][0]) == ["a"]
    assert frame["struct"].tolist() == [{"x": "u"}, None, {"x": None}]
    assert frame["nothing"].tolist() == [None, None, None]
    assert pd.isna([frame["text"][1], frame["category"][2], frame["enum"][2]]).all()


@COMPRESSIONS
@given(values=st.lists(st.none() | text, max_size=8))
def test_any_text_in_views_is_the_same_text(compression: str | None, values: list[str | None]) -> None:
    views, plain = (pa.table({"a": pa.array(values, kind)}) for kind in (pa.string_view(), pa.large_string()))
    assert_same(decode(stream(views, compression=compression)), decode(stream(plain)))


@COMPRESSIONS
@pytest.mark.parametrize("nested", [False, True])
def test_text_that_many_views_show_is_weighed_as_often(compression: str | None, nested: bool) -> None:
    views: Any = same_text()
    if nested:
        views = pa.LargeListArray.from_arrays(pa.array([0, 500]), views)
    data = stream(pa.table({"a": views}), compression=compression)
    decode(data)
    with pytest.raises(PoisonEntryError, match="bytes once decoded"):
        decode(data, limits=Limits(max_decoded_bytes=400_000))


@COMPRESSIONS
def test_categories_in_views_are_weighed_too(compression: str | None) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0]), same_text())
    data = stream(pa.table({"a": words}), compression=compression)
    with pytest.raises(PoisonEntryError, match="bytes once decoded"):
        decode(data, limits=Limits(max_decoded_bytes=400_000))


def test_uuids_become_text_and_other_extensions_their_storage() -> None:
    known = uuid.UUID(int=7)
    table = pa.table(
        {
            "id": pa.array([known.bytes, None], pa.uuid()),
            "json": pa.array(['{"a": 1}', None], pa.json_()),
            "flag": pa.array([1, 0], pa.bool8()),
        }
    )
    frame = decode(stream(table))
    assert frame["id"].tolist()[0] == str(known)
    assert frame["json"].tolist()[0] == '{"a": 1}'
    assert frame["flag"].tolist() == [1, 0]
    assert pd.isna([frame["id"][1], frame["json"][1]]).all()
    assert_same(decode(encode(frame)), frame)


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1, None], "b": ["x", None]}).convert_dtypes(dtype_backend="pyarrow"),
        pd.DataFrame({"a": [1]}, index=pd.Index([1], dtype="int64[pyarrow]", name="i")),
        pd.DataFrame({"t": pd.to_datetime(["2026-01-01T00:00Z"])}).convert_dtypes(dtype_backend="pyarrow"),
        pd.DataFrame(
            {"a": [1, 2]},
            index=pd.MultiIndex.from_arrays([pd.array([1, 2], dtype="int8[pyarrow]"), ["u", "v"]], names=["i", "j"]),
        ),
        pd.DataFrame({"a": pd.array([[1]], dtype=pd.ArrowDtype(pa.list_(pa.int64())))}),
        pd.DataFrame({"a": pd.array([{"x": 1}, None], dtype=pd.ArrowDtype(pa.struct([("x", pa.int64())])))}),
    ],
    ids=["columns", "index", "moments", "levels", "lists", "structs"],
)
def test_a_frame_of_pandas_with_pyarrow_dtypes_keeps_them(frame: pd.DataFrame) -> None:
    found = decode(stream(pa.Table.from_pandas(frame)))
    kept = {name: dtype for name, dtype in frame.dtypes.items() if dtype != pd.ArrowDtype(pa.string())}
    assert {name: found.dtypes[name] for name in kept} == kept
    assert found.index.names == frame.index.names
    assert [level.dtype for level in map(found.index.get_level_values, range(found.index.nlevels))] == [
        level.dtype for level in map(frame.index.get_level_values, range(frame.index.nlevels))
    ]
    pd.testing.assert_frame_equal(found, frame, check_dtype=False, check_index_type=False)


def test_a_frame_of_pandas_with_a_column_of_none_is_read() -> None:
    frame = pd.DataFrame({"a": [None, None], "b": [1, 2]})
    assert_same(decode(stream(pa.Table.from_pandas(frame))), frame)


@pytest.mark.parametrize("dtype", ["U500000000[pyarrow]", "U500000000", "dictionary<values=string>[pyarrow]"])
def test_dtypes_of_pyarrow_come_from_the_columns_and_not_from_the_metadata(dtype: str) -> None:
    table = pa.Table.from_pandas(pd.DataFrame({"a": [1]}))
    hints = table.schema.metadata[b"pandas"].replace(b'"numpy_type": "int64"', f'"numpy_type": "{dtype}"'.encode())
    data = stream(table.replace_schema_metadata({"pandas": hints}))
    if dtype.endswith("[pyarrow]"):
        assert decode(data)["a"].dtype == pd.ArrowDtype(pa.int64())
    else:
        with pytest.raises(PoisonEntryError, match="plain dtypes"):
            decode(data)
