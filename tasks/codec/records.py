"""Records as entries: dataclasses, named tuples, msgspec structs and pydantic models, as dicts of their fields."""

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["as_dict", "is_record", "record_cure"]


def is_record(value: Any) -> bool:
    """Return whether a value is an instance of a dataclass, named tuple, msgspec struct or pydantic model."""
    return _names(value) is not None


def _names(value: Any) -> Iterable[str] | None:
    """Return the names of a record's fields; None if it is no record. No library is loaded to find out."""
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        return [each.name for each in dataclasses.fields(kind)]
    if isinstance(value, tuple):
        names = getattr(kind, "_fields", None)  # typing.NamedTuple and collections.namedtuple
        return names if isinstance(names, tuple) and len(names) == len(value) else None
    if isinstance(value, _class("msgspec", "Struct")):
        unset = sys.modules["msgspec"].UNSET
        return [name for name in kind.__struct_fields__ if getattr(value, name) is not unset]
    if isinstance(value, _class("pydantic", "BaseModel")):
        return [*kind.model_fields, *(value.model_extra or ()), *kind.model_computed_fields]
    return None


def _class(module: str, name: str) -> Any:
    return getattr(sys.modules.get(module), name, ())


def as_dict(record: Any) -> dict[str, Any]:
    """Return the fields of a record; records in them, also in lists and dicts, become dicts too."""
    return {name: _plain(getattr(record, name)) for name in _names(record) or ()}


def _plain(value: Any) -> Any:
    if is_record(value):
        return as_dict(value)
    if type(value) is list:
        return [_plain(item) for item in value]
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    return value


def record_cure(value: Any) -> str:
    """Return how a record that is a value becomes one that can be encoded; '' if it is none."""
    if isinstance(value, Mapping) or not is_record(value):
        return ""
    if isinstance(value, tuple):
        return "use list() or ._asdict()"
    if dataclasses.is_dataclass(type(value)):
        return "use dataclasses.asdict()"
    return "use msgspec.structs.asdict()" if isinstance(value, _class("msgspec", "Struct")) else "use .model_dump()"
