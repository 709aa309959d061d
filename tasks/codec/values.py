"""Values <-> bytes, without envelope or tag: the first bytes show the format.

    None, bool, int, float, str, and lists and dicts (keys: str) of them     JSON text
    bytes                                                                    fe 'bytes:', then the bytes
    DataFrame, Series, Index, ndarray, pyarrow Table, numpy scalar,          one Arrow IPC stream
    datetime, date, time, timedelta, Timestamp, Timedelta, Decimal,          (begins ff ff ff ff)
    frames of libraries that speak Arrow's PyCapsule protocol

A value comes back equal and of the same type, or it is refused when it is encoded; frames of other libraries come back
as the reader chooses. Bytes of other programs decode too: Arrow IPC to a frame, JSON to its value, other UTF-8 to str,
the rest to bytes. Nothing is ever pickled.
"""

import json
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Literal, get_args

from tasks.base.plain_text import shortened
from tasks.codec.decoding import DEFAULT_DECODING, Decoding
from tasks.codec.json_text import SMALL, cure, from_json, json_weight, named, to_flat_json, to_json
from tasks.codec.limits import DEFAULT_LIMITS, Budget, Limits
from tasks.codec.records import as_dict, is_record
from tasks.errors import EncodeError, PoisonEntryError, SettingsError

__all__ = [
    "COMPRESSIONS",
    "DEFAULT_LIMITS",
    "IPC",
    "Compression",
    "Limits",
    "decode",
    "decode_value",
    "encode",
    "encode_fields",
    "is_frame",
    "is_pandas",
    "short_name",
    "weigh_value",
]

IPC = b"\xff\xff\xff\xff"  # which sorts behind all text
_RAW = b"\xfebytes:"  # no UTF-8 text holds fe
_JSON = frozenset((type(None), bool, int, float, str, list, dict))
Compression = Literal["lz4", "zstd"]
COMPRESSIONS = (*get_args(Compression), None)
_ALLOWED = (
    "None, bool, int, float, str, lists and dicts of them, bytes, DataFrame, Series, Index, ndarray, "
    "pyarrow Table, a frame with __arrow_c_stream__, numpy scalar, datetime, date, time, timedelta, Timestamp, "
    "Timedelta or Decimal"
)


def _frames() -> ModuleType:
    """Import the module for Arrow on first use: it loads pandas and pyarrow, half a second that plain values do not need."""
    from tasks.codec import frames  # noqa: PLC0415

    return frames


def is_pandas(value: Any, kind: str) -> bool:
    """Return whether a value is an instance of the pandas class `kind`, without importing pandas."""
    return isinstance(value, getattr(sys.modules.get("pandas"), kind, ()))


def is_frame(value: Any) -> bool:
    """Return whether a value is a table of any library: a pandas DataFrame, or what gives a stream of Arrow columns."""
    return hasattr(type(value), "__arrow_c_stream__") and not is_pandas(value, "Series")


def encode(value: Any, *, compression: str | None = None) -> bytes:
    """Return the bytes that `decode` gives back as an equal value of the same type.

    compression   of Arrow IPC streams: None, 'lz4' or 'zstd'
    raises        EncodeError: a value that would not come back equal; SettingsError: another compression
    """
    return _encode(value, "value", compression, DEFAULT_LIMITS)


def _encode(
    value: Any,
    where: str,
    compression: str | None,
    limits: Limits,
    on_inferred: Callable[[], None] | None = None,
) -> bytes:
    if compression not in COMPRESSIONS:
        msg = f"expected a compression out of None, 'lz4' and 'zstd', got {compression!r}"
        raise SettingsError(msg)
    kind = type(value)
    if kind in _JSON:
        return to_json(value, where)
    if kind is bytes:
        return _RAW + value
    if not _frames().can_encode(value):
        msg = f"{where}: expected {_ALLOWED}, got {named(kind)}; {cure(value)}"
        raise EncodeError(msg)
    try:
        return _frames().encode_stream(
            value, compression=compression, max_bytes=limits.max_decoded_bytes, on_inferred=on_inferred
        )
    except EncodeError as error:
        msg = f"{where}: {error}"
        raise EncodeError(msg) from error
    except Exception as error:  # pyarrow, pandas and numpy raise what they like
        why = type(error).__name__
        msg = f"{where}: expected a {kind.__name__} that Arrow can hold, got one it cannot ({why})"
        raise EncodeError(msg) from error


def decode(data: bytes, *, limits: Limits = DEFAULT_LIMITS, decoding: Decoding = DEFAULT_DECODING) -> Any:
    """Return the value of bytes, of Sluice or any other program.

    raises    PoisonEntryError: larger than `limits`; ff ff ff ff and no valid Arrow IPC stream; JSON that
              Python cannot hold, such as an int of 5,000 digits or 10,000 levels
    """
    return decode_value(data, "value", Budget(limits), decoding)


def decode_value(data: bytes, where: str, budget: Budget, decoding: Decoding) -> Any:
    """Return the value of a field; `where` names it in a message. As `decode`."""
    try:
        budget.spend_encoded(len(data))
        if data.startswith(IPC):
            return _frames().decode_stream(data, budget, frames=decoding.frames)
        if data.startswith(_RAW):
            return data[len(_RAW) :]
        return _decode_text(data, budget)
    except PoisonEntryError as error:
        msg = f"{where}: {error}"
        raise PoisonEntryError(msg) from error
    except Exception as error:  # MemoryError and RecursionError too
        expected = "a valid Arrow IPC stream" if data.startswith(IPC) else "JSON that Python can hold"
        why = type(error).__name__
        msg = f"{where}: expected {expected}, got {len(data):,} bytes of something else ({why})"
        raise PoisonEntryError(msg) from error


def _decode_text(data: bytes, budget: Budget) -> Any:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    budget.spend_decoded(json_weight(data))
    try:
        return from_json(text)
    except json.JSONDecodeError:
        return text


def encode_fields(
    fields: Any,
    *,
    compression: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    on_inferred: Callable[[], None] | None = None,
) -> dict[bytes, bytes]:
    """Return an entry's fields as Redis stores them; refuse an entry that no outlet could read within `limits`.

    fields        a mapping, or a record: a dataclass, named tuple, msgspec struct or pydantic model
    on_inferred   called if a DataFrame of objects is encoded after `infer_objects()`; default: it is refused
    raises    EncodeError: no mapping of at least one name to a value, a value `encode` refuses, or too large
    """
    is_mapping = type(fields) is dict or isinstance(fields, Mapping)
    if not is_mapping and is_record(fields):
        fields, is_mapping = as_dict(fields), True
    if not is_mapping or not fields:
        got = "an empty one" if is_mapping else type(fields).__name__
        msg = f"expected a mapping of at least one field name to a value, got {got}"
        raise EncodeError(msg)
    raw: dict[bytes, bytes] = {}
    size, are_flat = 0, True
    for name, value in fields.items():
        key = _encode_name(name)
        data = to_flat_json(value)
        if data is None:
            are_flat = False
            data = _encode(value, f"field {short_name(name)}", compression, limits, on_inferred)
        raw[key] = data
        size += len(key) + len(data)
    if not are_flat or size > SMALL or limits is not DEFAULT_LIMITS:
        _weigh_all(raw, limits)
    return raw


def _weigh_all(raw: Mapping[bytes, bytes], limits: Limits) -> None:
    budget = Budget(limits)
    for key, data in raw.items():
        try:
            budget.spend_encoded(len(key) + len(data))
            weigh_value(data, budget)
        except PoisonEntryError as error:
            msg = f"field {short_name(key.decode())}: {error}; push it in parts, or raise the limits of its outlets too"
            raise EncodeError(msg) from error


def weigh_value(data: bytes, budget: Budget) -> None:
    """Spend from `budget` the memory that decoding `data` takes at most; raises as `decode_value`."""
    if data.startswith(IPC):
        _frames().weigh_stream(data, budget)
    elif not data.startswith(_RAW):
        budget.spend_decoded(json_weight(data))


def _encode_name(name: Any) -> bytes:
    if not isinstance(name, str) or not name:
        got = "an empty one" if isinstance(name, str) else type(name).__name__
        msg = f"expected field names that are non-empty str, got {got}"
        raise EncodeError(msg)
    try:
        return name.encode()
    except UnicodeEncodeError as error:
        msg = "expected field names that UTF-8 can hold, got one with a lone surrogate"
        raise EncodeError(msg) from error


def short_name(name: str) -> str:
    """Return a field's name for a message."""
    return repr(shortened(name, 80))
