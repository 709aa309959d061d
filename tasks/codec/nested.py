"""Lists, dicts, arrays and pairs in the cells of a pandas column <-> nested Arrow types, exactly.

A form describes what the cells hold, down to the leaves, where each value is of one type or None:

    "int" "float" "bool" "str" "bytes" "date"    values of that type
    "none"                                       nothing but None, or no value at all
    {"list": FORM}                               lists
    {"struct": {NAME: FORM}}                     dicts that all have these keys, in this order
    {"pairs": [FORM, FORM]}                      lists of pairs, as pandas shows Arrow's maps
    {"array": "float64"}                         one-dimensional arrays of numbers of that dtype
    {"objects": FORM}                            one-dimensional arrays of objects

Cells without such a form, such as dicts of different keys, are JSON text.
"""

import datetime as dt
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["Form", "arrow_type", "form_of", "restored"]

Form = str | dict[str, Any]

_NONE = type(None)
_LEAVES: dict[type, tuple[str, pa.DataType]] = {
    int: ("int", pa.int64()),
    float: ("float", pa.float64()),
    bool: ("bool", pa.bool_()),
    str: ("str", pa.large_string()),
    bytes: ("bytes", pa.large_binary()),
    dt.date: ("date", pa.date32()),
}
_LEAF_TYPES = dict(_LEAVES.values()) | {"none": pa.null()}
_PAIR = 2
_MAX_DEPTH = 20  # below Arrow's own limits, and deeper than data is


def form_of(items: list[Any], depth: int = 0) -> Form | None:
    """Return the form of some values; None if Arrow would change one of them."""
    kinds = set(map(type, items)) - {_NONE}
    if not kinds:
        return "none"
    if len(kinds) > 1 or depth > _MAX_DEPTH:
        return None
    kind = kinds.pop()
    if leaf := _LEAVES.get(kind):
        return leaf[0]
    there = [item for item in items if item is not None]
    form_of_containers = _CONTAINERS.get(kind)
    return form_of_containers(there, depth) if form_of_containers else None


def _form_of_lists(lists: list[list[Any]], depth: int) -> Form | None:
    flat = list(chain.from_iterable(lists))
    if flat and set(map(type, flat)) == {tuple}:
        if any(len(pair) != _PAIR or pair[0] is None for pair in flat):
            return None
        sides = [form_of(list(side), depth + 1) for side in zip(*flat, strict=True)]
        return None if None in sides else {"pairs": sides}
    inner = form_of(flat, depth + 1)
    return None if inner is None else {"list": inner}


def _form_of_dicts(dicts: list[dict[Any, Any]], depth: int) -> Form | None:
    names = list(dicts[0])
    if not names or any(type(name) is not str for name in names) or any(list(each) != names for each in dicts):
        return None
    forms = {name: form_of([each[name] for each in dicts], depth + 1) for name in names}
    return None if None in forms.values() else {"struct": forms}


def _form_of_arrays(arrays: list[np.ndarray], depth: int) -> Form | None:
    dtype = arrays[0].dtype
    if any(array.ndim != 1 or array.dtype != dtype for array in arrays):
        return None
    if dtype.kind in "iufb" and dtype.isnative and dtype.itemsize <= 8:  # noqa: PLR2004 - no long doubles
        return {"array": str(dtype)}
    if dtype.kind != "O":
        return None
    inner = form_of(list(chain.from_iterable(array.tolist() for array in arrays)), depth + 1)
    return None if inner is None else {"objects": inner}


_CONTAINERS: dict[type, Callable[[list[Any], int], Form | None]] = {
    list: _form_of_lists,
    dict: _form_of_dicts,
    np.ndarray: _form_of_arrays,
}


def arrow_type(form: Form) -> pa.DataType:
    """Return the Arrow type in which values of a form are kept.

    raises    KeyError or TypeError: no form
    """
    if isinstance(form, str):
        return _LEAF_TYPES[form]
    ((name, inner),) = form.items()
    if name == "struct":
        return pa.struct([(key, arrow_type(one)) for key, one in inner.items()])
    if name == "pairs":
        return pa.map_(*map(arrow_type, inner))
    if name == "array":
        return pa.large_list(pa.from_numpy_dtype(np.dtype(inner)))
    return pa.large_list(arrow_type({"list": inner, "objects": inner}[name]))


def restored(column: pa.ChunkedArray, form: Form) -> list[Any]:
    """Return the values of a column that has the Arrow type of `form`."""
    if isinstance(form, dict) and "array" in form:
        return list(chain.from_iterable(_arrays(chunk, np.dtype(form["array"])) for chunk in column.chunks))
    items = column.to_pylist()
    return [_restored(item, form) for item in items] if _has_arrays(form) else items


def _arrays(chunk: Any, dtype: np.dtype) -> list[np.ndarray | None]:
    """Return the lists of numbers in a chunk as arrays that can be written to."""
    numbers = chunk.values.to_numpy(zero_copy_only=False)
    if numbers.dtype != dtype:  # nulls among them, which no array had
        numbers = numbers.astype(dtype)
    ends = chunk.offsets.to_pylist()
    is_there = chunk.is_valid().to_pylist()
    return [
        numbers[start:end].copy() if there else None
        for start, end, there in zip(ends, ends[1:], is_there, strict=False)
    ]


def _has_arrays(form: Form) -> bool:
    if isinstance(form, str):
        return False
    ((name, inner),) = form.items()
    if name in ("array", "objects"):
        return True
    inners = inner.values() if name == "struct" else inner if name == "pairs" else [inner]
    return any(map(_has_arrays, inners))


def _restored(item: Any, form: Form) -> Any:
    if item is None or isinstance(form, str):
        return item
    ((name, inner),) = form.items()
    if name == "struct":
        return {key: _restored(item[key], one) for key, one in inner.items()}
    if name == "pairs":
        return [(_restored(key, inner[0]), _restored(value, inner[1])) for key, value in item]
    if name == "array":
        return np.array(item, dtype=inner)
    items = [_restored(each, inner) for each in item]
    if name == "list":
        return items
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
