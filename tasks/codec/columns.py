"""One pandas array <-> one Arrow array and a word for its dtype; arrays that would not come back equal are refused.

int64 float32 bool datetime64[us] ...   numpy, whose missing values stay NaN and NaT
datetime64[ns, Europe/Berlin]           with a time zone
Int64 Float32 boolean ...               pandas' masked arrays
string[python,NA] ...                   pandas' four string dtypes
arrow                                   ArrowDtype, whose dtype is the Arrow type
category:<dtype of the categories>      whether ordered is in the Arrow type; then JSON of their name and freq, if any
object:...                              objects, see `tasks.codec.object_columns`
period[M]                               periods, as their ordinals
interval:right:<dtype of the bounds>    intervals, as a struct of their bounds
"""

import contextlib
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.tseries.frequencies import to_offset

from tasks.codec.arrow_ipc import check_type
from tasks.codec.json_text import from_json, to_json
from tasks.codec.object_columns import pack_objects, unpack_objects
from tasks.codec.zones import zone, zone_text
from tasks.errors import EncodeError, PoisonEntryError

__all__ = [
    "freq_text",
    "from_arrow",
    "is_plain",
    "plain_dtype",
    "to_arrow",
]

_NUMPY = {
    str(np.dtype(name)): np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
        *(f"{kind}[{unit}]" for kind in ("datetime64", "timedelta64") for unit in ("s", "ms", "us", "ns")),
    )
}
_NUMPY_WORDS = {dtype: word for word, dtype in _NUMPY.items()}  # numpy makes these texts slowly
_MASKED: dict[str, Any] = {
    dtype.name: dtype
    for dtype in (
        *(pd.Int8Dtype(), pd.Int16Dtype(), pd.Int32Dtype(), pd.Int64Dtype()),
        *(pd.UInt8Dtype(), pd.UInt16Dtype(), pd.UInt32Dtype(), pd.UInt64Dtype()),
        *(pd.Float32Dtype(), pd.Float64Dtype(), pd.BooleanDtype()),
    )
}
_ZONED = re.compile(r"datetime64\[(s|ms|us|ns), ([^\[\]]{1,64})\]")
_PERIODS = re.compile(r"period\[([^\[\]]{1,64})\]")
_CLOSED = frozenset({"left", "right", "both", "neither"})
_STRINGS: dict[str, Any] = {
    f"string[{storage},{word}]": pd.StringDtype(storage, na_value=missing)
    for storage in ("python", "pyarrow")
    for word, missing in (("NA", pd.NA), ("nan", np.nan))
}
_DEFAULT_STRING = next((word for word, dtype in _STRINGS.items() if dtype == pd.Series(["a"]).dtype), None)


def to_arrow(values: Any, where: Callable[[], str]) -> tuple[pa.Array, str]:
    """Return an array of pandas or numpy as Arrow keeps it, and the word for its dtype.

    values    1-D ndarray or ExtensionArray
    where     returns the name of the column, for messages
    raises    EncodeError: a dtype or objects that would not come back equal
    """
    dtype = values.dtype
    try:
        if isinstance(dtype, np.dtype):
            if word := _NUMPY_WORDS.get(dtype):
                return pa.array(values, from_pandas=False), word
            if dtype.kind == "O":
                return pack_objects(values)
        return _extension_to_arrow(values, dtype)
    except EncodeError as error:
        msg = f"{where()}: {error}"
        raise EncodeError(msg) from error
    except (pa.ArrowException, ValueError, OverflowError) as error:
        msg = f"{where()}: expected values that Arrow can hold as {dtype}, got others ({type(error).__name__})"
        raise EncodeError(msg) from error


def _extension_to_arrow(values: Any, dtype: Any) -> tuple[pa.Array, str]:
    if pack := _EXTENSIONS.get(type(dtype)):
        return pack(values, dtype)
    if _MASKED.get(str(dtype)) == dtype:
        return pa.array(values), str(dtype)
    msg = f"expected a dtype that Arrow keeps, got {dtype}; use astype(), e.g. to str, int64 or category"
    raise EncodeError(msg)


def _strings_to_arrow(values: Any, dtype: Any) -> tuple[pa.Array, str]:
    word = f"string[{dtype.storage},{'NA' if dtype.na_value is pd.NA else 'nan'}]"
    return _whole(pa.array(values, type=pa.large_string())), word


def _zoned_to_arrow(values: Any, dtype: Any) -> tuple[pa.Array, str]:
    text = zone_text(dtype.tz)
    naive = np.asarray(values, dtype=f"M8[{dtype.unit}]")
    return pa.array(naive, type=pa.timestamp(dtype.unit, text)), f"datetime64[{dtype.unit}, {text}]"


def _typed_to_arrow(values: Any, dtype: Any) -> tuple[pa.Array, str]:
    check_type(dtype.pyarrow_dtype)
    return _whole(pa.array(values)), "arrow"


def _categories_to_arrow(values: Any, dtype: Any) -> tuple[pa.Array, str]:
    categories = dtype.categories
    dictionary, word = to_arrow(_array_of(categories), lambda: "categories")
    if word.startswith(("category:", "interval:")):
        got = word.partition(":")[0]
        msg = f"expected categories of a plain dtype, got categories of dtype {got}; use rename_categories(str)"
        raise EncodeError(msg)
    indices = pa.array(values.codes, mask=values.codes < 0)
    array = pa.DictionaryArray.from_arrays(indices, dictionary, ordered=bool(dtype.ordered))
    check_type(array.type)
    return array, f"category:{word}{_category_hints(categories)}"


def _periods_to_arrow(values: Any, dtype: pd.PeriodDtype) -> tuple[pa.Array, str]:
    word = str(dtype)
    with contextlib.suppress(ValueError):
        if _PERIODS.fullmatch(word) and pd.PeriodDtype(word) == dtype:
            return pa.array(values.asi8, mask=np.asarray(values.isna())), word
    msg = "expected periods whose frequency its text states in full, got another; use astype('datetime64[us]')"
    raise EncodeError(msg)


def _intervals_to_arrow(values: Any, dtype: pd.IntervalDtype) -> tuple[pa.Array, str]:
    bounds = [to_arrow(_array_of(side), lambda: "bounds") for side in (values.left, values.right)]
    (left, word), (right, other) = bounds
    if word != other:
        msg = f"expected bounds of one dtype, got {word} and {other}; use astype()"
        raise EncodeError(msg)
    array = pa.StructArray.from_arrays([left, right], names=["left", "right"])
    return array, f"interval:{dtype.closed}:{word}"


_EXTENSIONS: dict[type, Callable[[Any, Any], tuple[pa.Array, str]]] = {
    pd.StringDtype: _strings_to_arrow,
    pd.DatetimeTZDtype: _zoned_to_arrow,
    pd.CategoricalDtype: _categories_to_arrow,
    pd.ArrowDtype: _typed_to_arrow,
    pd.PeriodDtype: _periods_to_arrow,
    pd.IntervalDtype: _intervals_to_arrow,
}


def _array_of(index: pd.Index) -> Any:
    return index.array if _is_extension(index.dtype) else index.to_numpy()


def _category_hints(categories: pd.Index) -> str:
    """Return the name and freq of categories as JSON after a space; '' if they have neither."""
    hints: dict[str, Any] = {}
    if categories.name is not None:
        if type(categories.name) not in (str, int, float, bool):
            got = type(categories.name).__name__
            msg = f"name of the categories: expected text or a number, got {got}; rename it"
            raise EncodeError(msg)
        hints["name"] = categories.name
    if not isinstance(categories, pd.PeriodIndex) and (freq := getattr(categories, "freq", None)) is not None:
        hints["freq"] = freq_text(freq, "categories")
    return f" {to_json(hints, 'categories').decode()}" if hints else ""


def freq_text(freq: Any, where: str) -> str:
    """Return the text of a frequency.

    raises    EncodeError: a frequency that its text does not state in full
    """
    with contextlib.suppress(ValueError):
        if to_offset(freq.freqstr) == freq:
            return freq.freqstr
    got = type(freq).__name__
    msg = f"{where}: expected a frequency that its text states in full, got {got}; set freq = None"
    raise EncodeError(msg)


def _is_extension(dtype: Any) -> bool:
    return not isinstance(dtype, np.dtype)


def _whole(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    if not isinstance(array, pa.ChunkedArray):
        return array
    return (
        array.chunk(0)
        if array.num_chunks == 1
        else pa.concat_arrays(array.chunks)
        if array.num_chunks
        else pa.array([], array.type)
    )


def plain_dtype(word: str) -> Any:
    """Return the dtype of a word if `Table.to_pandas` returns that dtype by itself, else None."""
    if word == _DEFAULT_STRING:
        return _STRINGS[word]
    if found := _ZONED.fullmatch(word):
        return _zoned_dtype(found[1], found[2])
    return _NUMPY.get(word)


@lru_cache(maxsize=256)
def _zoned_dtype(unit: Any, name: str) -> pd.DatetimeTZDtype:
    return pd.DatetimeTZDtype(unit, zone(name))


def is_plain(word: str) -> bool:
    """Return whether `Table.to_pandas` returns that dtype by itself, many columns in one block."""
    return plain_dtype(word) is not None


def from_arrow(column: pa.ChunkedArray, word: str) -> Any:
    """Return the array that `to_arrow` was given.

    raises    PoisonEntryError: an unknown word, or one that does not fit; any exception of pandas: malformed
    """
    if word == "arrow":
        return pd.arrays.ArrowExtensionArray(column)
    if dtype := plain_dtype(word):
        array = column.to_pandas()
        if array.dtype != dtype:
            _misfit(column, word)
        return array.array if _is_extension(dtype) else _writable(array.to_numpy())
    if dtype := _MASKED.get(word) or _STRINGS.get(word):
        array = dtype.__from_arrow__(column)
        if array.dtype != dtype:
            _misfit(column, word)
        return array
    if _PERIODS.fullmatch(word):
        return _periods(column, word)
    family, _, inner = word.partition(":")
    if read := _FAMILIES.get(family):
        return read(column, inner)
    msg = "expected a dtype this version of Sluice knows, got another"
    raise PoisonEntryError(msg)


def _misfit(column: pa.ChunkedArray, word: str) -> None:
    msg = f"expected values of dtype {word[:60]!r}, got Arrow's {str(column.type)[:60]}"
    raise PoisonEntryError(msg)


def _periods(column: pa.ChunkedArray, word: str) -> Any:
    if column.type != pa.int64():
        _misfit(column, word)
    ordinals = column.fill_null(np.iinfo("i8").min).to_numpy()  # pandas' own NaT
    return pd.arrays.PeriodArray(_writable(ordinals), dtype=pd.PeriodDtype(word))


def _intervals(column: pa.ChunkedArray, inner: str) -> pd.arrays.IntervalArray:
    closed, _, word = inner.partition(":")
    if closed not in _CLOSED or not pa.types.is_struct(column.type) or column.type.names != ["left", "right"]:
        _misfit(column, f"interval:{inner}")
    array = _whole(column)
    left, right = (from_arrow(pa.chunked_array([array.field(side)]), word) for side in ("left", "right"))
    sides: Any = closed
    dtype = pd.IntervalDtype(left.dtype, sides)
    return pd.arrays.IntervalArray.from_arrays(left, right, closed=sides, dtype=dtype)


def _writable(array: np.ndarray) -> np.ndarray:
    return array if array.flags.writeable else array.copy()


def _categorical(column: pa.ChunkedArray, inner: str) -> pd.Categorical:
    array = _whole(column)
    inner, has_hints, text = inner.partition(" {")
    hints = from_json("{" + text) if has_hints else {}
    if not pa.types.is_dictionary(array.type) or inner.startswith("category"):
        msg = "expected categories in a dictionary, got something else"
        raise PoisonEntryError(msg)
    known = from_arrow(pa.chunked_array([array.dictionary]), inner)
    name = hints.get("name")
    categories: Any = pd.Index(
        known, dtype=known.dtype, name=name, copy=False
    )  # else object text becomes str in pandas 3
    if freq := hints.get("freq"):
        categories.freq = freq
    codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return pd.Categorical.from_codes(codes, categories=categories, ordered=array.type.ordered)


_FAMILIES: dict[str, Callable[[pa.ChunkedArray, str], Any]] = {
    "category": _categorical,
    "interval": _intervals,
    "object": unpack_objects,
}
