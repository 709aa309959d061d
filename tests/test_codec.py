"""The codec: values come back equal or are refused; anybody's bytes decode or are poison."""

import datetime as dt
import enum
import json
import math
import struct
import subprocess
import sys
import time
import tracemalloc
from collections import OrderedDict, namedtuple
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tasks.codec import DEFAULT_LIMITS, SMALL, Limits, decode, decode_fields, decode_small, encode, encode_fields
from tasks.errors import EncodeError, PoisonEntryError, SettingsError
from tasks.jsontext import json_weight

MIB = 2**20


def stream(table: pa.Table, *, compression: str | None = None) -> bytes:
    """Return a table as somebody else's Arrow client writes it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def assert_same(got: Any, want: Any) -> None:
    """Fail unless two values are equal with the same types all the way down; NaN equals NaN, -0.0 not 0.0."""
    assert type(got) is type(want)
    if isinstance(want, pd.DataFrame):
        pd.testing.assert_frame_equal(got, want, check_exact=True, check_freq=True, check_flags=True)
        assert_same(got.columns, want.columns)
        assert_same(got.index, want.index)
        assert_same(got.attrs, want.attrs)
        for i in range(want.shape[1]):
            assert_same_values(got.iloc[:, i], want.iloc[:, i])
    elif isinstance(want, pd.Series):
        pd.testing.assert_series_equal(got, want, check_exact=True, check_freq=True, check_flags=True)
        assert_same(got.index, want.index)
        assert_same(got.attrs, want.attrs)
        assert_same_values(got, want)
    elif isinstance(want, pd.Index):
        pd.testing.assert_index_equal(got, want, exact=True, check_exact=True)
        assert getattr(got, "freq", None) == getattr(want, "freq", None)
        assert_same(list(got.names), list(want.names))
        if isinstance(want, pd.MultiIndex):
            assert [level.dtype for level in got.levels] == [level.dtype for level in want.levels]
        else:
            assert_same_values(got, want)
    elif isinstance(want, np.ndarray):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert got.tobytes() == want.tobytes()
    elif isinstance(want, np.generic):
        assert got.dtype == want.dtype
        assert got.tobytes() == want.tobytes() or got == want  # a long double has bytes that mean nothing
    elif isinstance(want, float):
        assert math.isnan(got) if math.isnan(want) else (got, math.copysign(1, got)) == (want, math.copysign(1, want))
    elif isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert_same(one, other)
    elif isinstance(want, dict):
        assert list(got) == list(want)
        for key in want:
            assert_same(got[key], want[key])
    elif isinstance(want, Decimal):
        assert str(got) == str(want)
    elif isinstance(want, (dt.datetime, dt.time)):
        assert (got.isoformat(), got.fold, getattr(got, "unit", None)) == (
            want.isoformat(),
            want.fold,
            getattr(want, "unit", None),
        )
    else:
        assert got == want


def assert_same_values(got: Any, want: Any) -> None:
    if isinstance(want.dtype, np.dtype) and want.dtype.kind == "f":
        assert (np.signbit(got.to_numpy()) == np.signbit(want.to_numpy()))[~np.isnan(want.to_numpy())].all()
    if want.dtype == object:
        for one, other in zip(got.tolist(), want.tolist(), strict=True):
            assert_same(one, other)


# --- JSON and bytes -------------------------------------------------------------------------------------

text = st.text(st.characters(codec="utf-8"))
atoms = st.none() | st.booleans() | st.integers() | st.floats() | text
json_values = st.recursive(
    atoms, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5), max_leaves=20
)


@given(json_values)
@example(-0.0)
@example(math.inf)
@example(math.nan)
@example(10**4300 - 1)
@example("null")
@example("\ufeff{}")
@example('{"a": [1, 2]}')
def test_a_value_that_json_holds_comes_back_equal_with_its_types(value: Any) -> None:
    assert_same(decode(encode(value)), value)


@given(st.binary())
@example(b"")
@example(b"\xff\xff\xff\xff")
@example(b"\xfebytes:")
@example(b'{"a": 1}')
def test_bytes_come_back_equal_whatever_they_look_like(value: bytes) -> None:
    assert_same(decode(encode(value)), value)


@given(json_values | st.binary())
def test_values_of_the_two_simple_kinds_never_look_like_an_arrow_stream(value: Any) -> None:
    assert not encode(value).startswith(b"\xff\xff\xff\xff")


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, b"null"),
        (True, b"true"),
        (-0.0, b"-0.0"),
        (math.nan, b"NaN"),
        (-math.inf, b"-Infinity"),
        ("né", '"né"'.encode()),
        ({"a": [1, 2.5]}, b'{"a":[1,2.5]}'),
        (b"\x00", b"\xfebytes:\x00"),
    ],
)
def test_redis_cli_shows_simple_values_as_they_are(value: Any, data: bytes) -> None:
    assert encode(value) == data


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


Point = namedtuple("Point", "x y")
deep: list[Any] = []
for _ in range(100):
    deep = [deep]
circle: list[Any] = []
circle.append(circle)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((1, 2), "got tuple; use list()"),
        ([1, (2,)], "[1]: expected None, bool, int, float, str, list or dict, got tuple; use list()"),
        ({"a": {"b": [0, {1}]}}, "['a']['b'][1]: "),
        ({1: "x"}, "expected keys that are str, got one of int; use str(key)"),
        ({"a": {True: "x"}}, "['a']: expected keys that are str, got one of bool"),
        ({Text("a"): 1}, "expected keys that are str"),
        ([Colour.RED], "[0]: "),
        (Colour.RED, "use int()"),
        (Text("x"), "use str()"),
        (OrderedDict(a=1), "use dict()"),
        (Point(1, 2), "use list()"),
        ([np.float64(1)], "got numpy's float64; use .item()"),
        ([np.True_], "use .item()"),
        ([b"x"], "got bytes"),
        ([pd.DataFrame()], "[0]: expected None, bool, int, float, str, list or dict, got pandas's DataFrame"),
        ({"a": "\ud800"}, "['a']: expected text that UTF-8 can hold, got a lone surrogate"),
        ({"\ud800": 1}, "lone surrogate"),
        (10**4300, "expected ints of at most 4,300 digits"),
        ([10**5000], "expected ints of at most 4,300 digits"),
        (deep, "expected at most 100 levels"),
        (circle, "expected at most 100 levels"),
        (bytearray(b"x"), "use bytes()"),
        ({1, 2}, "use sorted() or list()"),
        (object(), "got object"),
        (1j, "got complex"),
        (pd.NaT, "got pandas's NaTType"),
        (pd.NA, "got pandas's NAType"),
        (lambda: 1, "got function"),
        (pd.Period("2020-01"), "Period"),
        (dt.UTC, "timezone"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_come_back_changed_is_refused_with_its_path_and_a_cure(value: Any, said: str) -> None:
    with pytest.raises(EncodeError) as caught:
        encode_fields({"x": value})
    assert str(caught.value).startswith("field 'x'")
    assert said in str(caught.value)


def test_a_frame_in_a_list_is_refused_with_the_path_to_it() -> None:
    with pytest.raises(EncodeError, match=r"^field 'x'\[2\]\['a'\]: .*DataFrame"):
        encode_fields({"x": [0, 1, {"a": pd.DataFrame()}]})


# --- what Arrow carries ---------------------------------------------------------------------------------

ZONES = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/New_York"]
zones = st.sampled_from([ZoneInfo(name) for name in ZONES]) | st.sampled_from(
    [dt.UTC, dt.timezone(dt.timedelta(hours=1)), dt.timezone(-dt.timedelta(hours=5, minutes=30))]
)
UNITS = ["s", "ms", "us", "ns"]


def moments(unit: str) -> st.SearchStrategy[int]:
    """Return counts of `unit` since 1970 that reach about 100 years both ways."""
    reach = 100 * 366 * 86400 * 10 ** (3 * UNITS.index(unit))
    return st.integers(-reach, reach)


plain_times = st.times().map(lambda time: time.replace(fold=0))
scalars = st.one_of(
    st.datetimes(),
    st.datetimes(timezones=zones),
    st.dates(),
    st.times(),
    st.timedeltas(dt.timedelta(days=-(10**8)), dt.timedelta(days=10**8)),
    st.decimals(),
    st.sampled_from(UNITS).flatmap(
        lambda unit: st.builds(lambda count: pd.Timestamp(np.datetime64(count, unit)), moments(unit))
    ),
    st.sampled_from(UNITS).flatmap(
        lambda unit: st.builds(
            lambda count, tz: pd.Timestamp(np.datetime64(count, unit)).tz_localize("UTC").tz_convert(tz),
            moments(unit),
            zones,
        )
    ),
    st.sampled_from(UNITS).flatmap(
        lambda unit: st.builds(lambda count: pd.Timedelta(np.timedelta64(count, unit)), moments(unit))
    ),
)


@given(scalars)
@example(Decimal("-0.00"))
@example(Decimal("sNaN"))
@example(Decimal("1E+999999"))
@example(dt.datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1))
def test_a_moment_or_decimal_comes_back_equal_or_is_refused(value: Any) -> None:
    try:
        data = encode(value)
    except EncodeError:
        nonexistent_or_folded = getattr(value, "fold", 0) or getattr(value, "tzinfo", None)
        assert nonexistent_or_folded
        return
    assert_same(decode(data), value)


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")),
        dt.datetime(1, 1, 1),
        dt.datetime.max,
        pd.Timestamp("2024-01-01 00:00:00.123456789", tz="Asia/Tokyo"),
        pd.Timestamp.max,
        pd.Timestamp.min,
        pd.Timedelta.min,
        dt.time(23, 59, 59, 999999),
        Decimal("1.10"),
        np.datetime64("2024-01", "M"),
        np.datetime64("NaT", "s"),
        np.str_(""),
        np.str_("né"),
        np.bytes_(b"a"),
        np.bool_(True),
        np.float16(1.5),
        np.longdouble(1) / 3,
        np.complex64(1j),
    ],
    ids=repr,
)
def test_a_scalar_comes_back_equal(value: Any) -> None:
    assert_same(decode(encode(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2024, 3, 31, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")),  # skipped by the clock
        dt.datetime(2024, 1, 1, fold=1),
        dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(seconds=1))),
        dt.time(1, tzinfo=dt.UTC),
        dt.time(1, fold=1),
        dt.timedelta.max,
        np.bytes_(b"a\x00"),
    ],
    ids=repr,
)
def test_a_scalar_that_arrow_would_change_is_refused(value: Any) -> None:
    with pytest.raises(EncodeError, match="^field 'x': expected"):
        encode_fields({"x": value})


number_dtypes = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(),
    npst.unsigned_integer_dtypes(),
    npst.floating_dtypes(),
    npst.complex_number_dtypes(),
    npst.datetime64_dtypes(),
    npst.timedelta64_dtypes(),
    npst.byte_string_dtypes(),
    npst.unicode_string_dtypes(),
)


@given(
    npst.arrays(
        number_dtypes | npst.array_dtypes(number_dtypes, allow_subarrays=True),
        npst.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=4),
    )
)
@example(np.empty((0, 3)))
@example(np.asfortranarray(np.arange(6).reshape(2, 3)))
@example(np.arange(10)[::-2])
@example(np.array(5))
@example(np.array([math.nan, -0.0]))
def test_an_array_of_any_shape_and_dtype_comes_back_equal_and_writable(value: np.ndarray) -> None:
    got = decode(encode(value))
    assert_same(got, value)
    assert got.flags.writeable


@pytest.mark.parametrize(
    "value",
    [
        np.array([None]),
        np.array([("a", None)], dtype=[("a", "U1"), ("b", "O")]),
        np.ma.masked_array([1, 2], mask=[True, False]),
        np.rec.array([(1,)], dtype=[("a", "i4")]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_array_that_would_lose_something_is_refused(value: Any) -> None:
    with pytest.raises(EncodeError):
        encode(value)


def object_array(items: list[Any]) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def masked(dtype: Any) -> Any:
    integer = np.issubdtype(dtype.numpy_dtype, np.integer)
    if integer:
        info = np.iinfo(dtype.numpy_dtype)
        values = st.integers(int(info.min), int(info.max))
    elif dtype.name == "boolean":
        values = st.booleans()
    else:
        values = st.floats(width=32, allow_nan=False)
    return lambda n: st.builds(lambda items: pd.array(items, dtype=dtype), lists(values | st.none(), n))


def lists(values: st.SearchStrategy[Any], n: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=n, max_size=n)


def numpy_column(n: int) -> st.SearchStrategy[Any]:
    dtypes = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
    dtypes += ["float16", "float32", "float64"]
    dtypes += [f"{kind}64[{unit}]" for kind in ("datetime", "timedelta") for unit in UNITS]
    return st.sampled_from(dtypes).flatmap(lambda dtype: npst.arrays(dtype, n))


def zoned_column(n: int) -> st.SearchStrategy[Any]:
    def build(unit: str, tz: dt.tzinfo, counts: list[int]) -> Any:
        naive = pd.Series(np.array(counts, dtype="i8").view(f"M8[{unit}]"))
        return naive.dt.tz_localize("UTC").dt.tz_convert(tz).array

    return st.sampled_from(UNITS).flatmap(
        lambda unit: st.builds(build, st.just(unit), zones, lists(moments(unit) | st.just(-(2**63)), n))
    )


STRINGS = [pd.StringDtype(storage, na_value=na) for storage in ("python", "pyarrow") for na in (pd.NA, np.nan)]


def string_column(n: int) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda items, dtype: pd.array(items, dtype=dtype),
        lists(text | st.none(), n),
        st.sampled_from(STRINGS),
    )


def object_column(n: int) -> st.SearchStrategy[Any]:
    decimals = st.decimals().filter(lambda value: not value.is_snan())  # pandas cannot compare it
    kinds = [text, st.binary(), decimals, st.dates(), plain_times, st.nothing()]
    missing = st.sampled_from([None, math.nan])
    return st.one_of(
        [missing.flatmap(lambda gap, kind=kind: lists(kind | st.just(gap), n)).map(object_array) for kind in kinds]
    )


def foreign_object_column(n: int) -> st.SearchStrategy[Any]:
    things = st.one_of(atoms, st.dates(), st.datetimes(), st.just(pd.NA), st.just(pd.NaT), st.lists(st.integers()))
    return lists(things, n).map(object_array)


def categorical_column(n: int) -> st.SearchStrategy[Any]:
    categories = st.one_of(
        st.lists(text, unique=True, min_size=1, max_size=5),
        st.lists(st.integers(-5, 5), unique=True, min_size=1, max_size=5),
        st.lists(
            st.dates(dt.date(1800, 1, 1), dt.date(2200, 1, 1)).map(pd.Timestamp),
            unique=True,
            min_size=1,
            max_size=5,
        ),
        st.lists(st.floats(allow_nan=False), unique=True, min_size=1, max_size=5),
        st.just([True, False]),
        st.lists(text, unique=True, min_size=1, max_size=5).map(lambda items: pd.Index(items, dtype=object)),
        st.lists(text, unique=True, min_size=1, max_size=5).map(lambda items: pd.Index(items, dtype="string")),
    )
    return categories.flatmap(
        lambda known: st.builds(
            lambda codes, ordered: pd.Categorical.from_codes(codes, categories=known, ordered=ordered),
            lists(st.integers(-1, len(known) - 1), n),
            st.booleans(),
        )
    )


def arrow_column(n: int) -> st.SearchStrategy[Any]:
    typed = [
        (pa.int16(), st.integers(-5, 5)),
        (pa.string(), text),
        (pa.binary(), st.binary()),
        (pa.date32(), st.dates()),
        (pa.decimal128(10, 2), st.decimals(-100, 100, places=2)),
        (pa.list_(pa.int64()), st.lists(st.integers(0, 5), max_size=3)),
        (
            pa.struct([("a", pa.float64())]),
            st.fixed_dictionaries({"a": st.none() | st.floats(allow_nan=False)}),
        ),
        (pa.timestamp("ms", "Europe/Berlin"), st.integers(0, 2**40)),
    ]
    return st.one_of(
        [
            lists(values | st.none(), n).map(
                lambda items, kind=kind: pd.arrays.ArrowExtensionArray(pa.chunked_array([items], type=kind))
            )
            for kind, values in typed
        ]
    )


def refused_column(n: int) -> st.SearchStrategy[Any]:
    return st.sampled_from(
        [
            pd.period_range("2020", periods=n, freq="M").array,
            pd.arrays.SparseArray(np.zeros(n)),
            pd.interval_range(0, n).array[:n],
            pd.array(np.zeros(n, dtype=complex)),
            pd.arrays.ArrowExtensionArray(pa.chunked_array([pa.nulls(n)])),
        ]
    )


MASKED = [
    pd.Int8Dtype(),
    pd.Int64Dtype(),
    pd.UInt64Dtype(),
    pd.Float32Dtype(),
    pd.Float64Dtype(),
    pd.BooleanDtype(),
]
KEPT = [
    numpy_column,
    zoned_column,
    string_column,
    object_column,
    categorical_column,
    arrow_column,
    *map(masked, MASKED),
]


def columns(n: int) -> st.SearchStrategy[Any]:
    return st.one_of([build(n) for build in KEPT])


names = st.one_of(
    st.none(),
    text,
    st.integers(),
    st.tuples(text, st.integers()),
    st.just(pd.Timestamp("2024")),
    st.just(np.int64(1)),
)


@st.composite
def indexes(draw: st.DrawFn, n: int) -> pd.Index:
    name = draw(names)
    match draw(st.sampled_from(["range", "range", "one", "multi", "freq"])):
        case "range":
            start, step = draw(st.integers(-3, 3)), draw(st.sampled_from([-2, 1, 3]))
            return pd.RangeIndex(start, start + n * step, step, name=name)
        case "one":
            array = draw(columns(n).filter(lambda array: array.dtype != np.float16))
            return pd.Index(array, dtype=array.dtype, name=name)
        case "freq":
            freq = draw(st.sampled_from(["D", "2h", "ME", "B", "W-TUE", "15min"]))
            return pd.date_range("2024-01-01", periods=n, freq=freq, tz=draw(st.sampled_from([None, "UTC"])), name=name)
        case _:
            arrays = [
                draw(numpy_column(n).filter(lambda a: a.dtype != np.float16)),
                draw(string_column(n) | categorical_column(n)),
            ]
            return pd.MultiIndex.from_arrays(arrays, names=[name, draw(names)])


labels = st.one_of(
    st.lists(text, unique=True, max_size=5),
    st.lists(text, unique=True, max_size=5).map(lambda items: pd.Index(items, dtype=object, name="n")),
    st.lists(st.integers(), unique=True, max_size=5),
    st.lists(st.tuples(text, st.integers(0, 3)), unique=True, min_size=1, max_size=5).map(pd.MultiIndex.from_tuples),
    st.integers(0, 5).map(pd.RangeIndex),
    st.integers(0, 5).map(lambda n: pd.date_range("2024", periods=n, freq="D", name="day")),
    st.lists(st.integers(0, 9) | text, unique=True, max_size=5),
)


@st.composite
def frames(draw: st.DrawFn, column: Any = columns) -> pd.DataFrame:
    n = draw(st.integers(0, 6))
    known = draw(labels)
    arrays = [draw(column(n)) for _ in known]
    frame = pd.DataFrame({i: pd.Series(array, dtype=array.dtype) for i, array in enumerate(arrays)}, index=range(n))
    frame.columns = known
    frame.index = draw(indexes(n))
    if draw(st.booleans()):
        frame.attrs = draw(st.dictionaries(text, json_values, max_size=2))
    return frame


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
    ],
)
def test_a_table_comes_back_equal_with_its_metadata(table: pa.Table) -> None:
    got = decode(encode(table))
    assert got.equals(table, check_metadata=True)
    assert (got.schema.metadata or None) == (table.schema.metadata or None)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": pa.nulls(3)}),
        pa.table({"a": pa.array([["x"]], pa.list_(pa.dictionary(pa.int8(), pa.string())))}),
        pa.table({"a": pa.array(["x"], pa.string_view())}),
        pa.table({"a": pa.RunEndEncodedArray.from_arrays([2], [1])}),
        pa.table({"a": pa.array([b"0" * 16], pa.uuid())}),
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


# --- anybody's bytes ------------------------------------------------------------------------------------


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
def test_foreign_bytes_decode_by_what_they_look_like(data: bytes, value: Any) -> None:
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
def test_what_python_or_arrow_cannot_hold_is_poison(data: bytes) -> None:
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
            | st.sampled_from(["datetime64[ns, ../../etc/passwd]", "string[python,NA]", "string[pyarrow,nan]"]),
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
import random, sys
import numpy as np, pandas as pd, pyarrow as pa
from tasks.codec import Limits, decode, encode
from tasks.errors import PoisonEntryError

n = 50
frame = pd.DataFrame({
    "f": np.arange(n) / 3, "s": [f"text {i}" for i in range(n)], "o": pd.Series([b"x"] * n, dtype=object),
    "c": pd.Categorical(["u", "v"] * (n // 2)), "i": pd.array([1, None] * (n // 2), dtype="Int64"),
    "t": pd.date_range("2024", periods=n, tz="Europe/Berlin"),
}, index=pd.MultiIndex.from_product([range(n // 2), ["a", "b"]]))
nested = pa.table({"l": [["x", None], []] * n, "d": [{"a": 1.5, "b": "y"}, None] * n})
sink = pa.BufferOutputStream()
with pa.ipc.new_stream(sink, nested.schema) as writer:
    writer.write_table(nested)
seeds = [encode(value) for value in (frame, frame["s"], nested, np.eye(3), pd.Timestamp("2024", tz="UTC"))]
seeds += [encode(frame, compression=name) for name in ("lz4", "zstd")] + [sink.getvalue().to_pybytes()]
dice = random.Random(int(sys.argv[1]))
values = poison = 0
for round in range(int(sys.argv[2])):
    data = bytearray(dice.choice(seeds))
    for _ in range(dice.choice([1, 1, 2, 8])):
        at = dice.randrange(4, len(data))
        flipped = data[at] ^ (1 << dice.randrange(8))
        data[at] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256), flipped])
    if dice.random() < 0.1:
        del data[dice.randrange(4, len(data)):]
    try:
        value = decode(bytes(data), limits=Limits(max_decoded_bytes=16 * 2**20))
        values += 1
    except PoisonEntryError:
        poison += 1
        continue
    try:  # touch every value; what pandas says of the year 292017 is not the decoder's matter
        repr(value)
        if isinstance(value, (pd.DataFrame, pd.Series)):
            value.memory_usage(deep=True)
            value.copy().to_numpy().tolist()
    except Exception:
        pass
print(values, poison)
"""


def test_thousands_of_damaged_streams_neither_kill_the_process_nor_raise_anything_but_poison() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MUTATE, "1", "3000"], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]
    values, poison = map(int, done.stdout.split())
    assert min(values, poison) > 300  # else this tests nothing


# --- limits ---------------------------------------------------------------------------------------------


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


def bomb_views() -> bytes:
    return stream(pa.table({"a": pa.array(["x" * 100], pa.string_view())}))


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
    assert decode(lying).eq(np.arange(1000), axis=0).all(axis=None)  # Arrow has nothing against it
    with pytest.raises(PoisonEntryError, match="bytes once decoded"):
        decode(lying, limits=Limits(max_decoded_bytes=400_000))


LABELS = pd.to_datetime([f"2024-01-0{i}" for i in range(1, 10)])  # no JSON: a stream within the stream


@pytest.mark.parametrize(
    ("limits", "fields", "said"),
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
def test_what_no_outlet_could_read_is_refused_when_pushed_and_when_read(
    limits: Limits, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(EncodeError, match=f"^field '[ab]+': expected {said}") as caught:
        encode_fields(fields, limits=limits)
    assert "raise the limits" in str(caught.value)
    with pytest.raises(PoisonEntryError, match=f"^field '[ab]+': expected {said}"):
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


# --- fields ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "got an empty one"),
        ([("a", 1)], "got list"),
        (None, "got NoneType"),
        (pd.DataFrame({"a": [1]}), "got DataFrame"),
        ({"": 1}, "non-empty str, got an empty one"),
        ({1: 1}, "non-empty str, got int"),
        ({"\ud800": 1}, "lone surrogate"),
    ],
)
def test_only_a_mapping_of_names_to_values_is_an_entry(fields: Any, said: str) -> None:
    with pytest.raises(EncodeError, match=said):
        encode_fields(fields)


def test_a_field_name_that_is_no_utf8_is_poison() -> None:
    with pytest.raises(PoisonEntryError, match="field names in UTF-8, got one of 2 other bytes"):
        decode_fields({b"\xff\xfe": b"1"})


@pytest.mark.parametrize("secret", [b"\xff\xff\xff\xffSECRET", b"[" * 10**5 + b"SECRET", b"1" * 5000 + b"SECRET"])
def test_a_message_names_the_field_and_never_the_payload(secret: bytes) -> None:
    with pytest.raises(PoisonEntryError, match="^field 'quotes': ") as caught:
        decode_fields({b"quotes": secret})
    assert "SECRET" not in str(caught.value)
    with pytest.raises(EncodeError, match="^field 'quotes': ") as refused:
        encode_fields({"quotes": pd.DataFrame({"a": ["SECRET", 1]})})
    assert "SECRET" not in str(refused.value)


json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
).map(lambda value: json.dumps(value).encode())
odd_bytes = st.binary() | st.sampled_from(
    [b"", b" 1", b"1 ", b"1 2", b"\xfebytes:x", b"9" * 5_000, b"[" * 10_000, b"NaN", b"nope"]
)


@given(fields=st.dictionaries(st.binary(max_size=5), json_texts | odd_bytes, max_size=3))
def test_the_quick_way_to_decode_small_entries_agrees_with_the_long_one_or_leaves_it_to_it(
    fields: dict[bytes, bytes],
) -> None:
    found: dict[str, Any] = {}
    if decode_small([part for pair in fields.items() for part in pair], found):
        assert repr(found) == repr(decode_fields(fields))


@given(text=json_texts)
def test_plain_json_is_decoded_the_quick_way(text: bytes) -> None:
    assert decode_small([b"n", text], {})


def test_what_is_decoded_the_quick_way_cannot_weigh_more_than_the_limits() -> None:
    worst = [bytes([byte]) * SMALL for byte in range(128)]
    assert max(json_weight(b"[" + text) for text in worst) <= 200 * SMALL < DEFAULT_LIMITS.max_decoded_bytes
