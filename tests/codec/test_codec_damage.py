"""Bytes of any program, damaged ones too, either decode or raise a PoisonEntryError."""

import json
import math
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.codec import decode, decode_fields
from tasks.errors import PoisonEntryError
from tests.support.damage import outcomes_of
from tests.support.sameness import assert_same
from tests.support.values import json_values, stream, text


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", ""),
        (b" 1 ", 1),
        (b"1e999", math.inf),
        (b"[1, NaN]", [1, math.nan]),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b"2024-01-01", "2024-01-01"),
        (b"{'a': 1}", "{'a': 1}"),
        (b"\xef\xbb\xbf1", "\ufeff1"),
        (b"1\x00\x00\x00", "1\x00\x00\x00"),
        (b"\x80\x81", b"\x80\x81"),
        (b"\xfe\xffab", b"\xfe\xffab"),
        (b"\xff\xff\xff", b"\xff\xff\xff"),
    ],
)
def test_foreign_bytes_decode_by_their_form(data: bytes, value: Any) -> None:
    assert_same(decode(data), value)


@given(st.binary() | st.binary().map(lambda data: b"\xff\xff\xff\xff" + data) | text.map(str.encode))
def test_any_bytes_decode_to_a_value_or_are_poison(data: bytes) -> None:
    try:
        value = decode(data)
    except PoisonEntryError:
        return
    if not data.startswith((b"\xff\xff\xff\xff", b"\xfebytes:")):
        try:
            expected = json.loads(data.decode())
        except json.JSONDecodeError:
            expected = data.decode()
        except UnicodeDecodeError:
            expected = data
        assert_same(value, expected)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b"1" * 5000,
        b'{"a": [' + b"1" * 5000 + b"]}",
        b"\xff\xff\xff\xff",
        b"\xff\xff\xff\xffxxxx",
    ],
    ids=["deep", "long int", "long int within", "prefix", "garbage"],
)
def test_bytes_beyond_the_limits_of_python_or_arrow_are_poison(data: bytes) -> None:
    with pytest.raises(PoisonEntryError, match=r"^field 'x': expected"):
        decode_fields({b"x": data})


def test_a_foreign_stream_is_a_frame() -> None:
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    assert_same(decode(stream(table)), table.to_pandas())


def test_a_foreign_stream_of_pandas_keeps_its_index() -> None:
    frame = pd.DataFrame({"a": [1, 2], "c": pd.Categorical(["x", "y"])}, index=pd.Index(["u", "v"], name="k"))
    assert_same(decode(stream(pa.Table.from_pandas(frame))), frame)


def test_a_foreign_stream_whose_pandas_metadata_asks_for_a_huge_dtype_is_poison() -> None:
    table = pa.Table.from_pandas(pd.DataFrame({"a": [1]}))
    hints = table.schema.metadata[b"pandas"].replace(b'"numpy_type": "int64"', b'"numpy_type": "U500000000"')
    assert b"U5" in hints
    with pytest.raises(PoisonEntryError, match="plain dtypes"):
        decode(stream(table.replace_schema_metadata({"pandas": hints})))


layouts = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(
            [
                "DataFrame",
                "Series",
                "Index",
                "ndarray",
                "numpy",
                "Table",
                "datetime",
                "date",
                "time",
                "timedelta",
            ]
            + ["Timestamp", "Timedelta", "Decimal", "object", ""]
        ),
        "rows": st.sampled_from([2, 0, -1, 10**12, "2", None]),
    },
    optional={
        "dtypes": st.lists(
            st.sampled_from(["int64", "object:Decimal", "object:date", "category:int64", "Int64", "arrow", "O", "", 1])
            | st.sampled_from(["datetime64[ns, ../../etc/passwd]", "string[python,NA]", "string[pyarrow,nan]"])
            | st.sampled_from(
                ["period[M]", "period[x]", "interval:right:int64", "interval::", "object:bool", "object:UUID"]
            )
            | st.sampled_from(
                ["object:json", 'object:nested {"list":"int"}', 'object:array {"array":"U9"}', "object:x {"]
            ),
            max_size=3,
        ),
        "columns": st.sampled_from([{}, {"range": [0, 10**15, 1], "names": [None]}, {"names": [[]], "dtype": "int64"}])
        | st.sampled_from([{"names": ["x"], "dtype": None}, {"stream": "AAAA"}, {"range": [0, 2, 0]}]),
        "index": st.sampled_from([{"range": [0, 2, 1], "names": [None]}, {"range": [0, 10**12, 1], "names": [None]}])
        | st.sampled_from([{"names": ["a"]}, {"names": ["a"], "freq": "D"}, {"names": ["a", {}], "multi": True}, {}]),
        "dtype": st.sampled_from(["<f8", "O", "U500000000", "V0", [["a", "O"]], [["a"]], "datetime64", 1, None]),
        "shape": st.sampled_from([[2], [-1, -2], [10**18, 0], ["2"], 2, [2.0]]),
        "name": st.sampled_from([None, [], {"tuple": 1}, {"stream": "x"}]),
        "attrs": st.sampled_from([{}, [], 1]),
        "bare": st.booleans(),
        "unique": st.booleans(),
    },
)
tables = st.sampled_from(
    [
        pa.table({"a": [1, 2]}),
        pa.table({"a": [1.5, None], "b": ["x", None]}),
        pa.table({"a": pa.array([1, 2], pa.timestamp("s", "Nowhere/Else"))}),
        pa.table({"a": pa.array(["x", "x"]).dictionary_encode()}),
        pa.table({}),
    ]
)


@given(tables, layouts | json_values)
def test_a_stream_that_lies_about_its_kind_is_a_value_or_poison(table: pa.Table, layout: Any) -> None:
    lying = table.replace_schema_metadata({"sluice": json.dumps(layout)})
    try:
        decode(stream(lying))
    except PoisonEntryError as error:
        assert str(error).startswith("value: expected")  # noqa: PT017


MUTATE = """
import numpy as np, pandas as pd, pyarrow as pa
from tasks.codec import Limits, decode, encode
from tests.support.damage import damage_and_decode

n = 50
frame = pd.DataFrame({
    "f": np.arange(n) / 3, "s": [f"text {i}" for i in range(n)], "o": pd.Series([b"x"] * n, dtype=object),
    "c": pd.Categorical(["u", "v"] * (n // 2)), "i": pd.array([1, None] * (n // 2), dtype="Int64"),
    "t": pd.date_range("2024", periods=n, tz="Europe/Berlin"),
    "l": pd.Series([[1, None], []] * (n // 2), dtype=object), "d": pd.Series([{"a": "x"}, {"b": [1]}] * (n // 2)),
    "m": pd.interval_range(0.0, periods=n), "b": pd.Series([True, None] * (n // 2), dtype=object),
}, index=pd.MultiIndex.from_product([range(n // 2), ["a", "b"]]))
nested = pa.table({"l": [["x", None], []] * n, "d": [{"a": 1.5, "b": "y"}, None] * n})
sink = pa.BufferOutputStream()
with pa.ipc.new_stream(sink, nested.schema) as writer:
    writer.write_table(nested)
seeds = [encode(value) for value in (frame, frame["s"], nested, np.eye(3), pd.Timestamp("2024", tz="UTC"))]
seeds += [encode(frame, compression=name) for name in ("lz4", "zstd")] + [sink.getvalue().to_pybytes()]
damage_and_decode(seeds, lambda data: decode(data, limits=Limits(max_decoded_bytes=16 * 2**20)), start=4)
"""


def test_damaged_streams_crash_no_process_and_raise_only_poison_errors() -> None:
    assert min(outcomes_of(MUTATE)) > 300  # else this tests nothing
