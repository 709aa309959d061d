"""One pandas array <-> one Arrow array and a word for its dtype; what would not come back equal is refused.

int64 float32 bool datetime64[us] ...   numpy, whose missing values stay NaN and NaT
datetime64[ns, Europe/Berlin]           with a time zone
Int64 Float32 boolean ...               pandas' masked arrays
string[python,NA] ...                   pandas' four string dtypes
arrow                                   ArrowDtype: the Arrow type says it all
category:<dtype of the categories>      whether ordered is in the Arrow type; then JSON of their name and freq, if any
object:<type>                           objects of one type, or None; object:<type>:nan if missing is NaN
"""

import contextlib
import datetime as dt
import re
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.tseries.frequencies import to_offset

from tasks.codec.arrow_ipc import check_type
from tasks.codec.json_text import from_json, to_json
from tasks.errors import EncodeError, PoisonEntryError

__all__ = [
    "freq_text",
    "from_arrow",
    "is_object",
    "is_plain",
    "object_bytes",
    "plain_dtype",
    "to_arrow",
    "zone",
    "zone_text",
]

_NUMPY = {
    str(np.dtype(name)): np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
        *(f"{kind}[{unit}]" for kind in ("datetime64", "timedelta64") for unit in ("s", "ms", "us", "ns")),
    )
}
_NUMPY_WORDS = {dtype: word for word, dtype in _NUMPY.items()}  # numpy takes its time to make them
_MASKED: dict[str, Any] = {
    dtype.name: dtype
    for dtype in (
        *(pd.Int8Dtype(), pd.Int16Dtype(), pd.Int32Dtype(), pd.Int64Dtype()),
        *(pd.UInt8Dtype(), pd.UInt16Dtype(), pd.UInt32Dtype(), pd.UInt64Dtype()),
        *(pd.Float32Dtype(), pd.Float64Dtype(), pd.BooleanDtype()),
    )
}
_ZONED = re.compile(r"datetime64\[(s|ms|us|ns), ([^\[\]]{1,64})\]")
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")


def _string_dtypes() -> dict[str, Any]:
    found = {}
    for storage in ("python", "pyarrow"):
        found[f"string[{storage},NA]"] = pd.StringDtype(storage)
        try:
            dtype: Any = pd.StringDtype
            found[f"string[{storage},nan]"] = dtype(storage, na_value=np.nan)
        except TypeError:  # pandas 2.2 has no strings whose missing value is NaN
            continue
    return found


_STRINGS = _string_dtypes()
_DEFAULT_STRING = next((word for word, dtype in _STRINGS.items() if dtype == pd.Series(["a"]).dtype), None)
# Of objects, only the types that pandas has no dtype for, and text: `infer_objects` mends all others.
_OBJECTS: dict[str, tuple[type, pa.DataType]] = {
    "str": (str, pa.large_string()),
    "bytes": (bytes, pa.large_binary()),
    "Decimal": (Decimal, pa.large_string()),  # as text: Arrow's decimals know no exponent, NaN or -0
    "date": (dt.date, pa.date32()),
    "time": (dt.time, pa.time64("us")),
}
_OBJECT_WORDS = {kind: word for word, (kind, _) in _OBJECTS.items()}
_CURE = "use infer_objects(), or astype() to a dtype that holds one kind of value"


def zone_text(tz: dt.tzinfo) -> str:
    """Return the name under which Arrow keeps a time zone: 'UTC', '+01:00' or one of the tz database.

    raises    EncodeError: a zone without such a name
    """
    if tz is dt.UTC:
        return "UTC"
    if type(tz) is dt.timezone:
        minutes, rest = divmod(tz.utcoffset(None), dt.timedelta(minutes=1))
        if not rest:
            return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}" if minutes else "UTC"
    name = getattr(tz, "key", None) or getattr(tz, "zone", None)  # zoneinfo's, pytz'
    if isinstance(name, str) and _is_zone(name):
        return name
    msg = "expected a time zone with a name or whole minutes, got another; use zoneinfo.ZoneInfo(NAME)"
    raise EncodeError(msg)


def zone(text: str) -> dt.tzinfo:
    """Return the time zone of that name; an unknown one raises."""
    if text == "UTC":
        return dt.UTC
    if found := _OFFSET.fullmatch(text):
        sign, hours, minutes = found.groups()
        offset = dt.timedelta(hours=int(hours), minutes=int(minutes))
        return dt.timezone(-offset if sign == "-" else offset)
    return ZoneInfo(text)


@lru_cache(maxsize=256)
def _is_zone(name: str) -> bool:
    try:
        zone(name)
    except Exception:  # noqa: BLE001 - ValueError, OSError or KeyError, by the name and the platform
        return False
    return True


def to_arrow(values: Any, where: Callable[[], str]) -> tuple[pa.Array, str]:
    """Return an array of pandas or numpy as Arrow keeps it, and the word for its dtype.

    values    1-D ndarray or ExtensionArray
    where     says whose values they are, for a message
    raises    EncodeError: a dtype or objects that would not come back equal
    """
    dtype = values.dtype
    try:
        if isinstance(dtype, np.dtype):
            if word := _NUMPY_WORDS.get(dtype):
                return pa.array(values, from_pandas=False), word
            if dtype.kind == "O":
                return _objects_to_arrow(values)
        return _extension_to_arrow(values, dtype)
    except EncodeError as error:
        msg = f"{where()}: {error}"
        raise EncodeError(msg) from error
    except (pa.ArrowException, ValueError, OverflowError) as error:
        msg = f"{where()}: expected values that Arrow can hold as {dtype}, got others ({type(error).__name__})"
        raise EncodeError(msg) from error


def _extension_to_arrow(values: Any, dtype: Any) -> tuple[pa.Array, str]:
    if isinstance(dtype, pd.StringDtype):
        for word, known in _STRINGS.items():
            if known == dtype:
                return _whole(pa.array(values, type=pa.large_string())), word
    if isinstance(dtype, pd.DatetimeTZDtype):
        text = zone_text(dtype.tz)
        naive = np.asarray(values, dtype=f"M8[{dtype.unit}]")
        return pa.array(naive, type=pa.timestamp(dtype.unit, text)), f"datetime64[{dtype.unit}, {text}]"
    if isinstance(dtype, pd.CategoricalDtype) and type(values) is pd.Categorical:
        categories = dtype.categories
        dictionary, word = to_arrow(
            categories.array if _is_extension(categories.dtype) else categories.to_numpy(),
            lambda: "categories",
        )
        if word.startswith("category:"):
            msg = "expected categories of a plain dtype, got categories of categories"
            raise EncodeError(msg)
        indices = pa.array(values.codes, mask=values.codes < 0)
        array = pa.DictionaryArray.from_arrays(indices, dictionary, ordered=bool(dtype.ordered))
        check_type(array.type)
        return array, f"category:{word}{_category_hints(categories)}"
    if isinstance(dtype, pd.ArrowDtype):
        check_type(dtype.pyarrow_dtype)
        return _whole(pa.array(values)), "arrow"
    if _MASKED.get(str(dtype)) == dtype:
        return pa.array(values), str(dtype)
    msg = f"expected a dtype that Arrow keeps, got {dtype}; use astype(), e.g. to str, int64 or category"
    raise EncodeError(msg)


def _category_hints(categories: pd.Index) -> str:
    """Return what categories have beyond their values, as JSON behind a space; '' for nothing."""
    hints: dict[str, Any] = {}
    if categories.name is not None:
        if type(categories.name) not in (str, int, float, bool):
            got = type(categories.name).__name__
            msg = f"name of the categories: expected text or a number, got {got}; rename it"
            raise EncodeError(msg)
        hints["name"] = categories.name
    if (freq := getattr(categories, "freq", None)) is not None:
        hints["freq"] = freq_text(freq, "categories")
    return f" {to_json(hints, 'categories').decode()}" if hints else ""


def freq_text(freq: Any, where: str) -> str:
    """Return the text of a frequency, which says it in full.

    raises    EncodeError: a frequency of which the text does not
    """
    with contextlib.suppress(ValueError):
        if to_offset(freq.freqstr) == freq:
            return freq.freqstr
    got = type(freq).__name__
    msg = f"{where}: expected a frequency that its text says in full, got {got}; set freq = None"
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


def _objects_to_arrow(values: np.ndarray) -> tuple[pa.Array, str]:
    kinds = set(map(type, values))
    missing = kinds & {type(None), float}
    kinds -= missing
    if len(kinds) > 1 or len(missing) > 1 or not (kinds <= _OBJECT_WORDS.keys()):
        names = ", ".join(sorted(kind.__name__ for kind in kinds | missing)[:4])
        msg = f"expected objects of one type out of {', '.join(_OBJECTS)}, or None, got {names}; {_CURE}"
        raise EncodeError(msg)
    kind = kinds.pop() if kinds else str
    items: list[Any] = values.tolist()
    suffix = ""
    if float in missing:
        if any(type(item) is float and item == item for item in items):  # noqa: PLR0124 - is not NaN
            msg = f"expected objects of one type, got numbers among them; {_CURE}"
            raise EncodeError(msg)
        suffix = ":nan"
        items = [None if type(item) is float else item for item in items]
    if kind is Decimal:
        items = [None if item is None else str(item) for item in items]
    elif kind is dt.time and any(item is not None and (item.tzinfo or item.fold) for item in items):
        msg = "expected times without zone and fold, got one with; use datetimes, or time.isoformat()"
        raise EncodeError(msg)
    word = _OBJECT_WORDS[kind]
    return pa.array(items, type=_OBJECTS[word][1]), f"object:{word}{suffix}"


def is_object(word: str) -> bool:
    """Say whether a column of that dtype takes a Python object for each value."""
    return word.startswith(("object:", "string[python"))


def object_bytes(word: str) -> int:
    """Return the least bytes that such an object takes, whatever its Arrow type."""
    return 128 if word.startswith("object:Decimal") else 1


def plain_dtype(word: str) -> Any:
    """Return the dtype of that word if `Table.to_pandas` makes it by itself, else None."""
    if word == _DEFAULT_STRING:
        return _STRINGS[word]
    if found := _ZONED.fullmatch(word):
        return _zoned_dtype(found[1], found[2])
    return _NUMPY.get(word)


@lru_cache(maxsize=256)
def _zoned_dtype(unit: Any, name: str) -> pd.DatetimeTZDtype:
    return pd.DatetimeTZDtype(unit, zone(name))


def is_plain(word: str) -> bool:
    """Say whether `Table.to_pandas` makes that dtype by itself, many columns in one block."""
    return plain_dtype(word) is not None


def from_arrow(column: pa.ChunkedArray, word: str) -> Any:
    """Return the array that `to_arrow` was given.

    raises    PoisonEntryError: an unknown word, or one that does not fit; whatever pandas raises on worse
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
    family, _, inner = word.partition(":")
    if family == "category":
        return _categorical(_whole(column), inner)
    if family == "object":
        return _objects(column, inner)
    msg = "expected a dtype this version of Sluice knows, got another"
    raise PoisonEntryError(msg)


def _misfit(column: pa.ChunkedArray, word: str) -> None:
    msg = f"expected values of dtype {word[:60]!r}, got Arrow's {str(column.type)[:60]}"
    raise PoisonEntryError(msg)


def _writable(array: np.ndarray) -> np.ndarray:
    return array if array.flags.writeable else array.copy()


def _categorical(array: pa.Array, inner: str) -> pd.Categorical:
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


def _objects(column: pa.ChunkedArray, inner: str) -> np.ndarray:
    name, _, missing = inner.partition(":")
    known = _OBJECTS.get(name)
    if known is None or column.type != known[1] or missing not in ("", "nan"):
        _misfit(column, f"object:{inner}")
    items = column.to_pylist()
    if name == "Decimal":
        items = [None if item is None else Decimal(item) for item in items]
    if missing:
        items = [np.nan if item is None else item for item in items]
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
