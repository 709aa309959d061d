"""Hypothesis strategies for all kinds of values that the codec encodes or refuses."""

import datetime as dt
import math
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

__all__ = [
    "KEPT",
    "columns",
    "foreign_object_column",
    "frames",
    "indexes",
    "json_values",
    "names",
    "nested_column",
    "refused_column",
    "scalars",
    "stream",
    "text",
]


def stream(table: pa.Table, *, compression: str | None = None) -> bytes:
    """Return a table as an Arrow IPC stream, as other Arrow clients write it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


text = st.text(st.characters(codec="utf-8"))
atoms = st.none() | st.booleans() | st.integers() | st.floats() | text
json_values = st.recursive(
    atoms, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5), max_leaves=20
)

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


def object_array(items: list[Any]) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    for n, item in enumerate(items):  # a single assignment would make numpy convert nested lists
        array[n] = item
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
    kinds = [text, st.binary(), st.booleans(), decimals, st.dates(), plain_times, st.uuids(), st.nothing()]
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


FREQS = ["D", "M", "Q", "Y", "h", "min", "W-TUE", "2D"]


def period_column(n: int) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda items, freq: pd.arrays.PeriodArray(np.array(items, dtype="i8"), dtype=pd.PeriodDtype(freq)),
        lists(st.integers(-1_000, 30_000) | st.just(-(2**63)), n),
        st.sampled_from(FREQS),
    )


def interval_column(n: int) -> st.SearchStrategy[Any]:
    bounds = st.one_of(
        lists(st.integers(-5, 5), n).map(lambda items: np.array(items, dtype="i8")),
        lists(st.floats(-5, 5) | st.just(math.nan), n).map(lambda items: np.array(items, dtype="f8")),
        st.sampled_from(UNITS).flatmap(
            lambda unit: lists(moments(unit), n).map(lambda items: np.array(items, dtype="i8").view(f"M8[{unit}]"))
        ),
        zoned_column(n).map(lambda array: pd.Series(array).dt.round("s").array),
    )
    return st.builds(
        lambda left, closed: pd.arrays.IntervalArray.from_arrays(left, left, closed=closed),
        bounds,
        st.sampled_from(["left", "right", "both", "neither"]),
    )


def array_cells(dtype: str) -> st.SearchStrategy[np.ndarray]:
    return npst.arrays(dtype, st.integers(0, 3))


def nested_column(n: int) -> st.SearchStrategy[Any]:
    """Return columns of lists, dicts and arrays, as JSON and `Table.to_pandas` create them."""
    exact = st.integers(-(2**63), 2**63 - 1)
    leaves = [exact, st.floats(), st.booleans(), text, st.binary(), st.dates()]
    leaf = st.sampled_from(leaves).map(lambda values: st.none() | values)

    def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        """Return strategies for nested values of one type, from strategies for the inner type."""
        return st.one_of(
            inner.map(lambda values: st.lists(values, max_size=3)),
            inner.map(lambda values: st.lists(st.tuples(text, values), max_size=2)),
            st.lists(st.tuples(text, inner), min_size=1, max_size=3, unique_by=lambda pair: pair[0]).map(
                lambda pairs: st.fixed_dictionaries(dict(pairs))
            ),
            inner.map(lambda values: st.lists(values, max_size=3).map(object_array)),
            st.sampled_from(["i8", "u1", "f4", "f8", "bool"]).map(array_cells),
        )

    alike = st.recursive(leaf, deeper, max_leaves=4)
    any_json = st.just(st.lists(json_values, max_size=2) | st.dictionaries(text, json_values, max_size=2))
    missing = st.sampled_from([None, math.nan])
    return st.tuples(deeper(alike) | any_json, missing).flatmap(
        lambda pair: lists(pair[0] | st.just(pair[1]), n).map(object_array)
    )


def refused_column(n: int) -> st.SearchStrategy[Any]:
    return st.sampled_from(
        [
            pd.arrays.SparseArray(np.zeros(n)),
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
    period_column,
    interval_column,
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
