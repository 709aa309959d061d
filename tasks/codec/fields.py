"""The fields of an entry as Redis has them -> values, each on its own or all by a function of the user's."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tasks.codec.decoding import DEFAULT_DECODING, DecodeFunction, Decoding
from tasks.codec.json_text import from_json, json_weight, quick_json
from tasks.codec.limits import DEFAULT_LIMITS, Budget, Limits
from tasks.codec.values import decode_value, short_name, weigh_value
from tasks.errors import PoisonEntryError

__all__ = ["decode_fields", "decode_small", "quick_decoder", "weigh_fields"]

Raw = Mapping[bytes, bytes] | Sequence[tuple[bytes, bytes]]
Quick = Callable[[Sequence[bytes], dict[str, Any]], bool]


def decode_fields(
    raw: Raw,
    *,
    limits: Limits = DEFAULT_LIMITS,
    budget: Budget | None = None,
    decoding: Decoding = DEFAULT_DECODING,
) -> dict[str, Any]:
    """Return the decoded fields of an entry; `limits` apply to the sum of all fields.

    raw       a mapping, or pairs of name and data, in which names can be repeated
    budget    the rest of some limits, instead of `limits`; the fields are charged to it
    raises    PoisonEntryError: as `decode`, with the field's name; a name that is not UTF-8; a repeated name, which a dict
              would lose; a decode function that raises or returns no fields
    """
    budget = budget or Budget(limits)
    pairs = raw.items() if isinstance(raw, Mapping) else raw
    if callable(decoding.decode):
        return _by_function(list(pairs), decoding.decode, budget)
    read = _DECODERS[decoding.decode]
    fields: dict[str, Any] = {}
    repeated: set[str] = set()
    for key, data in pairs:
        name = _name(key)
        where = f"field {short_name(name)}"
        try:
            budget.spend_encoded(len(key))
        except PoisonEntryError as error:
            msg = f"{where}: {error}"
            raise PoisonEntryError(msg) from error
        value = read(data, where, budget, decoding)
        if name not in fields:
            fields[name] = value
        elif not decoding.lists_repeated:
            msg = f"{where}: expected each field once, got this one again; read the topic with a function as `decode`, which gets them all"
            raise PoisonEntryError(msg)
        elif name in repeated:
            fields[name].append(value)
        else:
            repeated.add(name)
            fields[name] = [fields[name], value]
    return fields


def _name(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        msg = (
            f"expected field names in UTF-8, got one of {len(key)} other bytes; a function as `decode` gets it as bytes"
        )
        raise PoisonEntryError(msg) from error


def _by_function(pairs: list[tuple[bytes, bytes]], function: DecodeFunction, budget: Budget) -> dict[str, Any]:
    budget.spend_encoded(sum(len(key) + len(data) for key, data in pairs))
    called = getattr(function, "__name__", type(function).__name__)
    try:
        fields = function(pairs)
    except Exception as error:
        msg = f"decode function {called}: expected it to return fields, it raised {type(error).__name__}"
        raise PoisonEntryError(msg) from error
    if not isinstance(fields, Mapping) or not all(isinstance(name, str) for name in fields):
        got = "other keys" if isinstance(fields, Mapping) else f"a {type(fields).__name__}"
        msg = f"decode function {called}: expected it to return a mapping of str to values, got {got}"
        raise PoisonEntryError(msg)
    return dict(fields)


def _text(data: bytes, where: str, budget: Budget, _: Decoding) -> str:
    _spend(data, where, budget, 4 * len(data))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        msg = f"{where}: expected text in UTF-8, got {len(data):,} other bytes; read the topic with decode='bytes' or 'auto'"
        raise PoisonEntryError(msg) from error


def _bytes(data: bytes, where: str, budget: Budget, _: Decoding) -> bytes:
    _spend(data, where, budget, 0)
    return data


def _json(data: bytes, where: str, budget: Budget, _: Decoding) -> Any:
    _spend(data, where, budget, json_weight(data))
    try:
        return from_json(data.decode())
    except Exception as error:  # UnicodeDecodeError, ValueError, RecursionError, MemoryError
        why = type(error).__name__
        msg = f"{where}: expected JSON, got {len(data):,} bytes of something else ({why}); read the topic with decode='auto'"
        raise PoisonEntryError(msg) from error


def _spend(data: bytes, where: str, budget: Budget, decoded: int) -> None:
    try:
        budget.spend_encoded(len(data))
        budget.spend_decoded(decoded)
    except PoisonEntryError as error:
        msg = f"{where}: {error}"
        raise PoisonEntryError(msg) from error


_DECODERS: dict[Any, Callable[[bytes, str, Budget, Decoding], Any]] = {
    "auto": decode_value,
    "text": _text,
    "bytes": _bytes,
    "json": _json,
}


def weigh_fields(raw: Iterable[tuple[bytes, bytes]], *, limits: Limits = DEFAULT_LIMITS) -> int:
    """Return the memory that an entry's fields take at most once decoded, without decoding them.

    raises    PoisonEntryError, or any exception of pyarrow: `decode_fields` will raise a PoisonEntryError
    """
    budget = Budget(limits)
    size = 0
    for key, data in raw:
        budget.spend_encoded(len(key) + len(data))
        weigh_value(data, budget)
        size += len(data)
    return budget.decoded + size


# --- most entries: small, and a little JSON ---------------------------------------------------------------


def quick_decoder(decoding: Decoding) -> Quick:
    """Return a function that decodes most small entries into a dict, many times as fast as `decode_fields`.

    It takes name, data, name, data, ... of at most `SMALL` bytes in all, which cannot exceed the default limits. It returns
    False for entries that need `decode_fields`, and leaves the dict in an undefined state.
    """
    return _slow if callable(decoding.decode) else _QUICK[decoding.decode]


class _Names(dict[bytes, str]):
    """Field names by their bytes. Entries of a topic repeat few names: a lookup takes half the time of decoding them.

    The names are interned, so that a pipeline's `entry["price"]` finds its key by identity.
    """

    def __missing__(self, key: bytes) -> str:
        name = key.decode()
        if len(self) < _MOST_NAMES and len(key) <= _LONGEST_NAME:
            name = self[key] = sys.intern(name)
        return name


_MOST_NAMES = 1_000  # another program may have a name of its own for each entry
_LONGEST_NAME = 100
_NAMES = _Names()


def decode_small(flat: Sequence[bytes], into: dict[str, Any]) -> bool:
    """Put fields of JSON into a dict: see `quick_decoder`."""
    try:
        if len(flat) == 2:  # noqa: PLR2004 - one field, as most have: in two thirds of the time
            name, data = flat
            into[_NAMES[name]] = quick_json(data)
            return True
        for i in range(0, len(flat), 2):
            into[_NAMES[flat[i]]] = quick_json(flat[i + 1])
    except (ValueError, RecursionError):
        return False
    return 2 * len(into) == len(flat)


def _small_text(flat: Sequence[bytes], into: dict[str, Any]) -> bool:
    try:
        for i in range(0, len(flat), 2):
            into[_NAMES[flat[i]]] = flat[i + 1].decode()
    except UnicodeDecodeError:
        return False
    return 2 * len(into) == len(flat)


def _small_bytes(flat: Sequence[bytes], into: dict[str, Any]) -> bool:
    try:
        for i in range(0, len(flat), 2):
            into[_NAMES[flat[i]]] = flat[i + 1]
    except UnicodeDecodeError:
        return False
    return 2 * len(into) == len(flat)


def _slow(_: Sequence[bytes], __: dict[str, Any]) -> bool:
    return False


_QUICK: dict[Any, Quick] = {"auto": decode_small, "text": _small_text, "bytes": _small_bytes, "json": decode_small}
