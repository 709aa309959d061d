"""Entries that are too large are refused at the push and at the read, before they cost memory or time."""

import json
import struct
import time
import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.codec import Limits, decode, decode_fields, encode_fields
from tasks.errors import EncodeError, PoisonEntryError
from tests.support.sameness import assert_same
from tests.support.values import frames, json_values, scalars, stream, text

MIB = 2**20


def bomb_zstd() -> bytes:
    return stream(pa.table({"a": np.zeros(40 * MIB)}), compression="zstd")


def bomb_lz4_dictionary() -> bytes:
    words = pa.array(["x" * (300 * MIB)], pa.large_string())
    return stream(pa.table({"a": pa.DictionaryArray.from_arrays(pa.array([0]), words)}), compression="lz4")


def bomb_nulls() -> bytes:
    return stream(pa.table({"a": pa.nulls(16_000_000)}))


def bomb_run_end() -> bytes:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], pa.int32()), pa.array([1]))
    return stream(pa.table({"a": runs}))


def bomb_empty_lists() -> bytes:
    return stream(pa.table({"a": pa.array([[]] * 1_500_000, pa.list_(pa.int8()))}), compression="zstd")


def bomb_no_fields() -> bytes:
    return stream(pa.table({"a": pa.array([{}] * 1_000_000, pa.struct([]))}))


def bomb_no_width() -> bytes:
    kind = pa.list_(pa.list_(pa.int8(), 0), 1000)
    return stream(pa.table({"a": pa.array([], kind)}))


def bomb_rows() -> bytes:
    return stream(pa.table({"a": np.zeros(11_000_000, dtype="i1")}), compression="zstd")


def bomb_columns() -> bytes:
    return stream(pa.table({f"c{i}": [1] for i in range(10_001)}))


def bomb_range() -> bytes:
    layout = {
        "kind": "DataFrame",
        "rows": 10**9,
        "dtypes": [],
        "index": {"range": [0, 10**9, 1], "names": [None]},
    }
    layout["columns"] = {"range": [0, 0, 1], "names": [None], "dtype": None}
    return stream(pa.table({}).replace_schema_metadata({"sluice": json.dumps(layout)}))


def bomb_json() -> bytes:
    return b"[" + b"[]," * 3_000_000 + b"[]]"


BOMBS = [value for name, value in list(globals().items()) if name.startswith("bomb_")]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_a_bomb_is_refused_before_it_takes_memory_or_time(bomb: Any) -> None:
    data = bomb()
    before = pa.total_allocated_bytes(), pa.default_memory_pool().max_memory()
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(PoisonEntryError, match=r"^field 'x': expected"):
            decode_fields({b"x": data})
        assert time.perf_counter() - started < 2
        assert tracemalloc.get_traced_memory()[1] < len(data) + 32 * MIB
    finally:
        tracemalloc.stop()
    assert pa.default_memory_pool().max_memory() - max(before) < 32 * MIB


def test_a_stream_whose_columns_share_one_buffer_is_weighed_column_by_column() -> None:
    honest = stream(pa.table({f"c{i}": np.arange(1000) + i for i in range(50)}))
    lying = honest[: -8 - 49 * 8000] + honest[-8:]  # the body of one column, and the end of the stream
    lying = lying.replace(struct.pack("<q", 50 * 8000), struct.pack("<q", 8000))
    for i in range(1, 50):
        own = struct.pack("<4q", i * 8000, 0, i * 8000, 8000)  # no validity bitmap, then the values
        lying = lying.replace(own, struct.pack("<4q", 0, 0, 0, 8000))
    assert decode(lying).eq(np.arange(1000), axis=0).all(axis=None)  # Arrow accepts it
    with pytest.raises(PoisonEntryError, match="bytes once decoded"):
        decode(lying, limits=Limits(max_decoded_bytes=400_000))


LABELS = pd.to_datetime([f"2024-01-0{i}" for i in range(1, 10)])  # no JSON: a stream within the stream


@pytest.mark.parametrize(
    ("limits", "fields", "message"),
    [
        (Limits(max_entry_bytes=20), {"a": "x" * 30}, "at most 20 bytes"),
        (Limits(max_entry_bytes=20), {"a" * 30: 1}, "at most 20 bytes"),
        (Limits(max_entry_bytes=40), {"a": "x" * 20, "b": b"x" * 20}, "at most 40 bytes"),
        (Limits(max_decoded_bytes=1000), {"a": [[]] * 50}, "at most 1,000 bytes once decoded"),
        (
            Limits(max_rows=5),
            {"a": pd.DataFrame({"x": range(3)}), "b": pd.Series(range(3))},
            "at most 5 rows",
        ),
        (Limits(max_rows=5), {"a": pd.DataFrame(index=range(6))}, "at most 5 rows"),
        (Limits(max_columns=3), {"a": pd.DataFrame(np.eye(4))}, "at most 3 columns"),
        (Limits(max_decoded_bytes=50_000), {"a": np.zeros(10_000)}, "at most 50,000 bytes once decoded"),
        (
            Limits(max_decoded_bytes=50_000),
            {"a": pd.Series([True] * 50_000)},
            "at most 50,000 bytes once decoded",
        ),
        (
            Limits(max_decoded_bytes=60_000),
            {"a": pd.DataFrame([[1] * 9], columns=LABELS)},
            "at most 60,000 bytes",
        ),
    ],
)
def test_entries_that_no_outlet_could_read_are_refused_at_push_and_read(
    limits: Limits, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(EncodeError, match=f"^field '[ab]+': expected {message}") as caught:
        encode_fields(fields, limits=limits)
    assert "raise the limits" in str(caught.value)
    with pytest.raises(PoisonEntryError, match=f"^field '[ab]+': expected {message}"):
        decode_fields(encode_fields(fields), limits=limits)


@given(
    st.dictionaries(text.filter(bool), json_values | st.binary() | scalars | frames(), min_size=1, max_size=3),
    st.sampled_from([None, "lz4", "zstd"]),
    st.integers(0, 100_000),
)
def test_limits_that_let_an_entry_be_pushed_let_it_be_read(
    fields: dict[str, Any], compression: str | None, size: int
) -> None:
    limits = Limits(max_entry_bytes=size, max_decoded_bytes=4 * size, max_rows=10, max_columns=20)
    try:
        raw = encode_fields(fields, compression=compression, limits=limits)
    except EncodeError:
        return
    assert_same(decode_fields(raw, limits=limits), fields)
