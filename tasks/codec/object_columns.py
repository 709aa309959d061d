"""Columns of Python objects <-> Arrow: objects of one type, and the lists, dicts and arrays that JSON and Arrow bring.

object:<type>           objects of one type, or None; `object:<type>:nan` if missing is NaN
object:array {...}      arrays of numbers; the JSON is their form, see `tasks.codec.nested`
object:nested {...}     lists, dicts, pairs and arrays of a form
object:json             lists and dicts that have no form, each as JSON text
"""

import datetime as dt
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.codec.ipc_weight import Becomes
from tasks.codec.json_text import from_json, to_json
from tasks.codec.nested import arrow_type, form_of, restored
from tasks.errors import EncodeError, PoisonEntryError

__all__ = ["is_nested", "is_object", "object_becomes", "pack_objects", "unpack_objects"]

_TYPES: dict[str, tuple[type, pa.DataType]] = {
    "str": (str, pa.large_string()),
    "bytes": (bytes, pa.large_binary()),
    "bool": (bool, pa.bool_()),
    "Decimal": (Decimal, pa.large_string()),  # as text: Arrow's decimals know no exponent, NaN or -0
    "date": (dt.date, pa.date32()),
    "time": (dt.time, pa.time64("us")),
    "UUID": (uuid.UUID, pa.binary(16)),
}
_NAMES = {kind: name for name, (kind, _) in _TYPES.items()}
_INTO: dict[type, Callable[[Any], Any]] = {Decimal: str, uuid.UUID: lambda value: value.bytes}
_FROM: dict[str, Callable[[Any], Any]] = {"Decimal": Decimal, "UUID": lambda data: uuid.UUID(bytes=data)}
_CONTAINERS = frozenset({list, dict, np.ndarray})
_CURE = "use infer_objects(), or astype() to a dtype that holds one kind of value"
_JSON = pa.large_string()
# The least bytes that one object takes.
_BYTES = {"Decimal": 128, "UUID": 144}


def pack_objects(values: np.ndarray) -> tuple[pa.Array, str]:
    """Return an array of objects as Arrow holds it, and the word for what they are.

    raises    EncodeError: objects that would not come back equal
    """
    kinds = set(map(type, values))
    missing = kinds & {type(None), float}
    kinds -= missing
    are_containers = bool(kinds) and kinds <= _CONTAINERS
    if len(missing) > 1 or not (are_containers or (len(kinds) <= 1 and kinds <= _NAMES.keys())):
        names = ", ".join(sorted(kind.__name__ for kind in kinds | missing)[:4])
        msg = f"expected objects of one type out of {', '.join(_TYPES)}, or lists and dicts, or None, got {names}; {_CURE}"
        raise EncodeError(msg)
    items: list[Any] = values.tolist()
    suffix = ""
    if float in missing:
        if any(type(item) is float and item == item for item in items):  # noqa: PLR0124 - is not NaN
            msg = f"expected objects of one type, got numbers among them; {_CURE}"
            raise EncodeError(msg)
        suffix = ":nan"
        items = [None if type(item) is float else item for item in items]
    if are_containers:
        return _pack_containers(items, suffix)
    kind = kinds.pop() if kinds else str
    if into := _INTO.get(kind):
        items = [None if item is None else into(item) for item in items]
    elif kind is dt.time and any(item is not None and (item.tzinfo or item.fold) for item in items):
        msg = "expected times without zone and fold, got one with; use datetimes, or time.isoformat()"
        raise EncodeError(msg)
    name = _NAMES[kind]
    return pa.array(items, type=_TYPES[name][1]), f"object:{name}{suffix}"


def _pack_containers(items: list[Any], suffix: str) -> tuple[pa.Array, str]:
    form = form_of(items)
    if form is not None:
        try:
            array = pa.array(items, type=arrow_type(form))
        except (
            pa.ArrowException,
            OverflowError,
            UnicodeError,
        ):  # an int above 64 bits, say: JSON holds it, or refuses it
            pass
        else:
            name = "array" if isinstance(form, dict) and "array" in form else "nested"
            return array, f"object:{name}{suffix} {to_json(form, 'form').decode()}"
    texts = [None if item is None else to_json(item, f"row {n}").decode() for n, item in enumerate(items)]
    return pa.array(texts, type=_JSON), f"object:json{suffix}"


def is_object(word: str) -> bool:
    """Return whether a column of that dtype takes a Python object for each value."""
    return word.startswith(("object:", "string[python"))


def is_nested(word: str) -> bool:
    """Return whether a column of that dtype holds lists, dicts or arrays."""
    return word.startswith(("object:nested", "object:array", "object:json"))


def object_becomes(word: str) -> Becomes:
    """Return the decoded form of such a column's values, as far as it takes additional memory."""
    name = word.removeprefix("object:").partition(" ")[0].partition(":")[0]
    if name == "bool":
        return Becomes(beside=8)
    return Becomes(_BYTES.get(name, 1), is_python=name == "nested", is_json=name == "json")


def unpack_objects(column: pa.ChunkedArray, inner: str) -> np.ndarray:
    """Return the array that `pack_objects` was given; `inner` is its word behind 'object:'.

    raises    PoisonEntryError: a word that does not fit the column; any other Exception: worse
    """
    head, _, text = inner.partition(" ")
    name, _, missing = head.partition(":")
    form = from_json(text) if text else None
    expected = arrow_type(form) if form is not None else _JSON if name == "json" else _TYPES[name][1]
    if column.type != expected or missing not in ("", "nan") or (form is None) != (name not in ("array", "nested")):
        msg = f"expected objects of the type {name[:60]!r}, got Arrow's {str(column.type)[:60]}"
        raise PoisonEntryError(msg)
    if form is not None:
        items = restored(column, form)
    else:
        items = column.to_pylist()
        if read := from_json if name == "json" else _FROM.get(name):
            items = [None if item is None else read(item) for item in items]
    if missing:
        items = [np.nan if item is None else item for item in items]
    array = np.empty(len(items), dtype=object)
    for n, item in enumerate(items):  # at once, numpy would look into lists
        array[n] = item
    return array
