"""Turns the return value of a pump into entries."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tasks.codec.records import as_dict, is_record
from tasks.codec.values import is_frame
from tasks.errors import PumpError

__all__ = ["Encode", "Entries", "as_entries"]

Entries = list[Mapping[str, Any]]
Encode = Callable[[Entries], list[dict[bytes, bytes]]]


def as_entries(value: Any, *, name: str) -> Entries:
    """Return a pump's return value as a list of entries, each a mapping of fields.

    value    None: no entry
             a mapping, or a record such as a dataclass: one entry of its fields
             a frame of pandas, polars or any library that speaks Arrow: one entry with the field `name`
             an iterable of these: several entries
    raises   PumpError: any other value
    """
    match value:
        case None:
            return []
        case Mapping():
            return [value]
        case _ if is_frame(value):
            return [{name: value}]
        case _ if is_record(value):
            return [as_dict(value)]
        case str() | bytes():
            pass
        case Iterable():
            return [entry for item in value for entry in _entry(item, name=name)]
    raise PumpError(_not_entries(value, name))


def _entry(item: Any, *, name: str) -> Entries:
    if is_frame(item) or is_record(item) or isinstance(item, Mapping):
        return as_entries(item, name=name)
    raise PumpError(_not_entries(item, name))


def _not_entries(value: Any, name: str) -> str:
    return (
        f"pump {name!r}: expected a mapping of fields, a dataclass or another record, a DataFrame or another Arrow frame, "
        f"several of those, or None, got {type(value).__name__}; nothing was pushed; return {{'field': value}}"
    )
