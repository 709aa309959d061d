"""The estimate for `max_decoded_bytes` is an upper bound of the memory of any decoded value."""

import sys
import uuid
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.codec import Limits, decode_fields, encode, encode_fields
from tasks.codec.limits import DEFAULT_LIMITS, Budget
from tasks.errors import EncodeError, PoisonEntryError
from tests.support.values import frames, json_values, scalars, stream

ROWS = 2_000  # so many that the size of an empty frame does not matter


def taken(value: Any) -> int:
    """Return the memory of a value, counting an object once per reference."""
    match value:
        case pd.DataFrame():
            return sum(taken(value.iloc[:, i].array) for i in range(value.shape[1])) + taken(value.index)
        case pd.MultiIndex():
            return sum(map(taken, value.levels)) + sum(codes.nbytes for codes in value.codes)
        case pd.RangeIndex():
            size = 0
        case pd.Series() | pd.Index():
            size = taken(value.array)
        case pd.Categorical():
            size = value.codes.nbytes + taken(value.categories)
        case pd.api.extensions.ExtensionArray():
            inner = getattr(value, "_ndarray", None)
            size = taken(inner) if inner is not None and inner.dtype == object else value.nbytes
        case np.ndarray():
            size = value.nbytes + (sum(map(taken, value.ravel().tolist())) if value.dtype == object else 0)
        case dict():
            size = sys.getsizeof(value) + sum(taken(key) + taken(inner) for key, inner in value.items())
        case bool():
            size = 0  # there are two objects in all
        case str() if len(value) == 1 and "\x80" <= value <= "\xff":
            # One object for all, in which any earlier encoding may have left its UTF-8; a longer one is new and has none.
            size = sys.getsizeof(value * 2) - 1
        case uuid.UUID():
            size = sys.getsizeof(value) + sys.getsizeof(value.int)
        case list() | tuple():
            size = sys.getsizeof(value) + sum(map(taken, value))
        case _:
            size = getattr(value, "nbytes", 0) or sys.getsizeof(value)
    return size


def decoded(data: bytes) -> tuple[Any, int]:
    budget = Budget(DEFAULT_LIMITS)
    return decode_fields({b"x": data}, budget=budget)["x"], budget.decoded


def many(array: pa.Array) -> pa.ChunkedArray:
    return pa.chunked_array([array] * (ROWS // len(array)))


FOREIGN = [
    *[pa.array([1, None], kind) for kind in (pa.int8(), pa.uint8(), pa.int32(), pa.int64(), pa.float32())],
    pa.array([True, None]),
    pa.array([True, False]),
    *[pa.array([1, 2], kind) for kind in (pa.int8(), pa.float16(), pa.date32())],
    pa.array([0, 86_400_000], pa.date64()),
    pa.nulls(2),
    pa.array(["a", None]),
    pa.array(["a" * 50 + "\N{GRINNING FACE}", "b" * 50]),
    pa.array(["a" * 50 + "\N{GRINNING FACE}", None], pa.string_view()),
    pa.array([b"a", None]),
    pa.array([b"a", None], pa.binary_view()),
    pa.array([b"ab", None], pa.binary(2)),
    pa.array([1, None], pa.decimal128(38, 2)),
    pa.array([1, None], pa.time64("us")),
    pa.array([1, None], pa.timestamp("us", "UTC")),
    pa.array([bytes(16), None], pa.uuid()),
    pa.array([[1, 2], []]),
    pa.array([["a"], None]),
    pa.array([{"a": 1, "b": 2.5}, {"a": None, "b": None}]),
    pa.array([{"a": [1], "t": None}, None], pa.struct([("a", pa.list_(pa.int64())), ("t", pa.timestamp("us"))])),
    pa.array([[("k", 1000)], None], pa.map_(pa.string(), pa.int64())),
    pa.array(["a", "b"]).dictionary_encode().cast(pa.dictionary(pa.int32(), pa.string())),
    pa.DictionaryArray.from_arrays(pa.array([0, None], pa.uint8()), ["a"]),
    pa.DictionaryArray.from_arrays(pa.array([0, None], pa.uint32()), [10**6]),
]


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("array", FOREIGN, ids=lambda array: str(array.type))
def test_a_foreign_column_takes_no_more_than_it_was_weighed_at(array: pa.Array, compression: str | None) -> None:
    value, weight = decoded(stream(pa.table({"a": many(array)}), compression=compression))
    assert taken(value) <= weight


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(
            {"a": pd.array([True, None] * 1000, dtype="boolean"), "b": pd.array([1, None] * 1000, dtype="Int8")}
        ),
        pd.DataFrame({"a": ["\N{GRINNING FACE}" + "x" * 50] * 2000}, dtype=object),
        pd.DataFrame({"a": pd.Series(["\N{GRINNING FACE}" + "x" * 50] * 2000, dtype=pd.StringDtype("python"))}),
        pd.DataFrame({"a": pd.Categorical([f"{n}\N{GRINNING FACE}" for n in range(2000)])}),
        pd.DataFrame({"a": [None] * 2000}, dtype=object),
        pd.DataFrame(index=pd.MultiIndex.from_product([range(1000), ["a", "b"]])),
        pd.DataFrame(index=pd.MultiIndex.from_product([pd.date_range("2026", periods=1000), ["a", "b"]])),
        pd.DataFrame([range(500)], columns=pd.date_range("2026", periods=500)),
    ],
    ids=["masked", "objects", "strings", "categories", "none", "levels", "levels with freq", "labels"],
)
def test_a_frame_takes_no_more_than_it_was_weighed_at(frame: pd.DataFrame) -> None:
    value, weight = decoded(encode(frame))
    assert taken(value) <= weight


@pytest.mark.parametrize(
    "cells",
    [
        [True, None],
        [uuid.UUID(int=2**127 + 1), None],
        [[10**6, None], None],
        [[1.5] * 10, []],
        [[], []],
        [{"a": [10**6], "b": "\N{GRINNING FACE}" * 20}, None],
        [{"a": 10**6}, {"b": [[], [], []]}],
        [[], {}],
        [[("k", 10**6)], None],
        [np.arange(5), None],
        [np.array(["x", None], dtype=object), None],
        [{"a": np.arange(3)}, None],
    ],
    ids=repr,
)
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_objects_take_no_more_than_they_were_weighed_at(cells: list[Any], compression: str | None) -> None:
    column = np.empty(ROWS, dtype=object)
    for n in range(ROWS):
        column[n] = cells[n % len(cells)]
    value, weight = decoded(encode(pd.DataFrame({"a": pd.Series(column, dtype=object)}), compression=compression))
    assert taken(value) <= weight


@given(frames() | scalars | json_values)
def test_any_value_takes_no_more_than_it_was_weighed_at(value: Any) -> None:
    try:
        data = encode(value)
    except EncodeError:
        return
    found, weight = decoded(data)
    assert taken(found) <= max(weight, 4096)


@given(
    st.integers(1, 100),
    st.sampled_from([7, 1000, 2.5, "ab", "\N{GRINNING FACE}", "\xe9", "\u4e2d", None, [], {}, [1000], {"b": 1000}]),
)
def test_json_of_many_small_values_takes_no_more_than_it_was_weighed_at(count: int, item: Any) -> None:
    for value in ([item] * count, {f"k{n}": item for n in range(count)}, [{"a": item}] * count):
        found, weight = decoded(encode(value))
        assert taken(found) <= weight + 256


@pytest.mark.parametrize("shape", [(1000, 0), (0, 1000), (2, 0, 500)])
def test_the_rows_of_an_array_without_bytes_are_rows(shape: tuple[int, ...]) -> None:
    fields = {"a": np.empty(shape)}
    with pytest.raises(EncodeError, match="at most 10 rows"):
        encode_fields(fields, limits=Limits(max_rows=10))
    with pytest.raises(PoisonEntryError, match="at most 10 rows"):
        decode_fields(encode_fields(fields), limits=Limits(max_rows=10))
