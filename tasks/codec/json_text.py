"""None, bool, int, float, str, and lists and dicts of them <-> JSON text, exactly.

`json` alone would change other types: a tuple into a list, an int key into text, an IntEnum into an int. So types are
checked first, by identity, and a value comes back with the same types.
"""

import json
import re
from typing import Any

import msgspec
from typing_extensions import Buffer

from tasks.base.plain_text import shortened
from tasks.codec.records import record_cure
from tasks.errors import EncodeError

__all__ = [
    "SMALL",
    "SMALL_WEIGHT",
    "check_json",
    "container_weight",
    "cure",
    "from_json",
    "json_weight",
    "named",
    "quick_json",
    "to_flat_json",
    "to_json",
]

# No byte of JSON text weighs more than `SMALL_WEIGHT`, so that this many need not be weighed.
SMALL = 16_384
SMALL_WEIGHT = 168


# Python's dialect: NaN, Infinity and -Infinity are literals; -0.0 stays -0.0.
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=True, separators=(",", ":"))
_DECODER = json.JSONDecoder()
# Decodes JSON in a quarter of the time; raises ValueError or RecursionError for other text and for Python's own dialect, such
# as NaN or a lone surrogate.
quick_json = msgspec.json.Decoder().decode
# Encodes as fast, but writes NaN and infinity as `null`.
_quick_text = msgspec.json.Encoder().encode
_ATOMS = frozenset((str, int, float, bool, type(None)))
_STR = frozenset((str,))
# Deeper values could be written but not always read, because the parser shares the caller's recursion limit.
_MAX_DEPTH = 100
_CONTAINER = re.compile(rb"[ \t\r\n]*[\[{]")
_CURES = {
    "set": "use sorted() or list()",
    "frozenset": "use sorted() or list()",
    "bytearray": "use bytes() and give it a field of its own",
    "memoryview": "use bytes() and give it a field of its own",
}


def to_json(value: Any, where: str = "value") -> bytes:
    """Return a value as JSON text in UTF-8.

    where     path to the value, for messages
    raises    EncodeError: a type other than the six, a key that is no str, a str with a lone surrogate,
              an int of more than Python's 4,300 digits, or more than 100 levels
    """
    if type(value) not in _ATOMS:
        check_json(value, where)
    if (text := _written(value)) is not None:
        return text
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError as error:
        found = _find_surrogate(value, where)
        msg = f"{found}: expected text that UTF-8 can hold, got a lone surrogate; use bytes"
        raise EncodeError(msg) from error
    except ValueError as error:
        msg = f"{where}: expected ints of at most 4,300 digits, got a longer one; use str() or bytes"
        raise EncodeError(msg) from error


def to_flat_json(value: Any) -> bytes | None:
    """Return an atom, or a dict or list of atoms, as `to_json` does, in half the time; None for other values, and for some of these."""
    kind = type(value)
    if kind is dict:
        is_flat = _STR.issuperset(map(type, value)) and _ATOMS.issuperset(map(type, value.values()))
    elif kind is list:
        is_flat = _ATOMS.issuperset(map(type, value))
    else:
        is_flat = kind in _ATOMS
    return _written(value) if is_flat else None


def _written(value: Any) -> bytes | None:
    try:
        text = _quick_text(value)
    except (ValueError, OverflowError, RecursionError):
        return None  # `to_json` finds the reason
    return None if b"null" in text else text


def check_json(value: Any, where: str, depth: int = 0) -> None:  # noqa: C901 - one case a type
    """Accept values that JSON returns with the same types; else raise an EncodeError with the path."""
    kind = type(value)
    if kind in _ATOMS:
        return
    if depth >= _MAX_DEPTH:
        msg = f"{where[:80]}...: expected at most {_MAX_DEPTH} levels of lists and dicts, got more; flatten it"
        raise EncodeError(msg)
    if kind is list:
        if not _ATOMS.issuperset(map(type, value)):
            for i, item in enumerate(value):
                check_json(item, f"{where}[{i}]", depth + 1)
    elif kind is dict:
        for key in value:
            if type(key) is not str:
                msg = f"{where}: expected keys that are str, got one of {type(key).__name__}; use str(key)"
                raise EncodeError(msg)
        if not _ATOMS.issuperset(map(type, value.values())):
            for key, item in value.items():
                check_json(item, f"{where}[{_short(key)}]", depth + 1)
    else:
        msg = f"{where}: expected None, bool, int, float, str, list or dict, got {named(kind)}; {cure(value)}"
        raise EncodeError(msg)


def named(kind: type) -> str:
    """Return the name of a type for a message, with its package unless it is a builtin."""
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}'s {kind.__name__}"


def cure(value: Any) -> str:
    """Return the remedy for a value that cannot be encoded."""
    kind = type(value)
    if of_record := record_cure(value):
        return of_record
    if known := _CURES.get(kind.__name__):
        return known
    if isinstance(value, tuple):
        return "use list()"
    if kind.__module__ == "numpy" and kind.__name__ != "ndarray":
        return "use .item()"
    if isinstance(value, (str, int, float, list, dict)):
        plain = next(base for base in (str, int, float, list, dict) if isinstance(value, base))
        return f"use {plain.__name__}()"
    return "turn it into one of these, or give it a field of its own if it may have one"


def _short(key: str) -> str:
    return repr(shortened(key, 40))


def _find_surrogate(value: Any, where: str) -> str:
    """Return the path to the first str that UTF-8 cannot hold."""
    if isinstance(value, str):
        return where if not _is_utf8(value) else ""
    if isinstance(value, list):
        return next(filter(None, (_find_surrogate(item, f"{where}[{i}]") for i, item in enumerate(value))), "")
    if isinstance(value, dict):
        if not all(map(_is_utf8, value)):
            return f"{where}, a key"
        return next(filter(None, (_find_surrogate(item, f"{where}[{_short(k)}]") for k, item in value.items())), "")
    return ""


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def from_json(text: str) -> Any:
    """Return the value of a JSON text.

    raises    json.JSONDecodeError: no JSON; ValueError or RecursionError: JSON that Python cannot hold
    """
    try:
        return quick_json(text)
    except (ValueError, RecursionError):
        return _DECODER.decode(text)


def json_weight(data: bytes) -> int:
    """Return an upper bound of the memory that JSON text takes once decoded.

    A str takes up to 4 times its bytes (one emoji is enough), `[[],[],...` takes 24 times. Commas and braces inside strings
    are counted too, because distinguishing them takes longer than decoding.
    """
    weight = 4 * len(data)
    if _CONTAINER.match(data):
        weight += container_weight(data)
    return weight


def container_weight(data: Buffer) -> int:
    """Return an upper bound of the memory of lists and dicts in JSON text, without the text in them."""
    text = memoryview(data).tobytes() if not isinstance(data, bytes) else data
    return 64 * (text.count(b",") + text.count(b":")) + 32 * text.count(b"[") + 160 * text.count(b"{")
