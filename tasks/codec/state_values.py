"""Values that pipelines keep between elements <-> bytes: more types than entries may hold, and faster for small ones.

    byte 0       the format, now 1
    the rest     one msgpack value

None, bool, int of 64 bits, float, str, bytes, list and dict with such keys are msgpack's own. Every other type is a msgpack
extension: its tag, and as data a msgpack array of its parts, which are values of a state again
(`tasks.codec.state_types`, `tasks.codec.state_arrays`).
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from tasks.codec.json_text import named
from tasks.codec.state_paths import cure, located
from tasks.codec.state_types import BUILTIN_TYPES, Extension
from tasks.errors import EncodeError, PoisonEntryError, SettingsError

__all__ = ["Extension", "StateCodec", "decode_state", "encode_state"]

_FORMAT = b"\x01"
_PLAIN = frozenset((type(None), bool, int, float, str, bytes))
_ALWAYS_PLAIN = _PLAIN - {int, str}  # msgpack has no larger int than 64 bits, and no lone surrogate
_MAX_DEPTH = 100
_TUPLE = 1
_OWN_TAGS, _LAST_TAG = 64, 127  # msgpack keeps negative ones to itself
_COPIED = 2**16
_TOO_DEEP = f"expected at most {_MAX_DEPTH} levels, got more, or a container that holds itself; flatten it, or use keep_state=False"
_EXPECTED = (
    "a type that a state may hold, such as int, str, list, dict, tuple, set, deque, datetime, ndarray or DataFrame"
)

_UNFORESEEN = "expected a value that can be written, got one that cannot"

_write = msgspec.msgpack.Encoder().encode
_Ext = msgspec.msgpack.Ext


class _TooDeepError(Exception):
    """A value of more than `_MAX_DEPTH` levels."""


class StateCodec:
    """The codec of states, with `extensions` for types that it cannot import.

    Safe in all threads. A value must not change while it is encoded.
    """

    def __init__(self, extensions: Iterable[Extension] = ()) -> None:
        """Check the extensions.

        raises    SettingsError: a tag out of 64 to 127, or a tag or type that is taken
        """
        self._by_type: dict[type, Extension] = {}
        self._readers: dict[int, Any] = {}
        self._has_arrays = False
        self._add(BUILTIN_TYPES)
        for each in extensions:
            if (
                not _OWN_TAGS <= each.tag <= _LAST_TAG
                or each.tag in self._readers
                or each.type in self._by_type | _NATIVE
            ):
                msg = f"expected a tag from {_OWN_TAGS} to {_LAST_TAG} and a type, each once, got {each.tag} for {named(each.type)}"
                raise SettingsError(msg)
            self._add([each])
        self._read = msgspec.msgpack.Decoder(ext_hook=self._unpacked).decode

    def encode(self, value: Any, *, where: str = "state") -> bytes:
        """Return the bytes that `decode` gives back as an equal value of the same type.

        where     path to the value, for messages
        raises    EncodeError: a type that no state may hold, or more than 100 levels; the message has the path
        """
        kind = type(value)
        try:
            if kind in _PLAIN:
                return _FORMAT + _write(value)
            if kind is tuple and _PLAIN.issuperset(map(type, value)):
                return _FORMAT + _write(_Ext(_TUPLE, _write(value)))
            return _FORMAT + _write(self._packed(value, 0, _PLAIN))
        except Exception:  # noqa: BLE001 - found again below, with its place
            return self._encode_carefully(value, where)

    def decode(self, data: bytes) -> Any:
        """Return the value that was encoded.

        returns   a value that shares nothing with others; arrays and frames are writable
        raises    PoisonEntryError: bytes that `encode` did not write, or that are cut off; a newer format;
                  an extension that this codec lacks. The memory it takes is in proportion to the bytes.
        """
        if data[:1] != _FORMAT:
            got = f"format {data[0]}" if data else "nothing"
            msg = f"state: expected format {_FORMAT[0]}, got {got}; update Sluice, or reset the state"
            raise PoisonEntryError(msg)
        try:
            return self._read(data[1:] if len(data) < _COPIED else memoryview(data)[1:])
        except Exception as error:  # MemoryError and RecursionError too
            why = f"{error}" if isinstance(error, PoisonEntryError) else type(error).__name__
            msg = (
                f"state: expected what was encoded, got {len(data):,} bytes of something else ({why}); reset the state"
            )
            raise PoisonEntryError(msg) from error

    def _add(self, extensions: Iterable[Extension]) -> None:
        for each in extensions:
            self._by_type[each.type] = each
            self._readers[each.tag] = each.from_parts

    def _add_arrays(self) -> None:
        """Add the types of numpy and pandas on first use: loading them takes half a second that other states do not need."""
        from tasks.codec.state_arrays import ARRAY_TYPES  # noqa: PLC0415

        self._add(each for each in ARRAY_TYPES if each.type not in self._by_type)
        self._has_arrays = True

    def _extension(self, kind: type) -> Extension | None:
        found = self._by_type.get(kind)
        if found is None and not self._has_arrays:
            self._add_arrays()
            found = self._by_type.get(kind)
        return found

    def _packed(self, value: Any, depth: int, plain: frozenset[type]) -> Any:  # noqa: PLR0911 - one for each msgpack type
        """Return what msgspec encodes in place of a value.

        plain     types that stay as they are; without int and str, those that msgpack cannot hold are extensions
        raises    EncodeError, without the path; any other Exception of a type's `to_parts`
        """
        kind = type(value)
        if kind in plain:
            return value
        if depth >= _MAX_DEPTH:
            raise _TooDeepError
        if kind is list:
            if plain.issuperset(map(type, value)):
                return value
            return [item if type(item) in plain else self._packed(item, depth + 1, plain) for item in value]
        if kind is dict and plain.issuperset(map(type, value)):
            if plain.issuperset(map(type, value.values())):
                return value
            return {
                key: item if type(item) in plain else self._packed(item, depth + 1, plain)
                for key, item in value.items()
            }
        if kind in _NATIVE and _is_native(value):
            return value
        extension = self._extension(kind)
        if extension is None:
            msg = f"expected {_EXPECTED}, got {named(kind)}; {cure(value)}"
            raise EncodeError(msg)
        parts = extension.to_parts(value)
        if not plain.issuperset(map(type, parts)):
            parts = [part if type(part) in plain else self._packed(part, depth + 1, plain) for part in parts]
        return _Ext(extension.tag, _write(parts))

    def _unpacked(self, tag: int, data: memoryview) -> Any:
        reader = self._readers.get(tag)
        if reader is None:
            if tag < _OWN_TAGS and not self._has_arrays:
                self._add_arrays()
                return self._unpacked(tag, data)
            msg = f"expected a type that this codec knows, got tag {tag}"
            raise PoisonEntryError(msg)
        parts = self._read(data)
        if type(parts) is not list:
            msg = f"expected a list of parts, got {type(parts).__name__}"
            raise PoisonEntryError(msg)
        return reader(parts)

    def _encode_carefully(self, value: Any, where: str) -> bytes:
        """Encode a value with large ints and lone surrogates in it, or raise an EncodeError with the path to what is refused."""
        try:
            return _FORMAT + self._written(value)
        except _TooDeepError:
            msg = f"{where}: {_TOO_DEEP}"
            raise EncodeError(msg) from None
        except Exception as error:  # noqa: BLE001 - pandas, numpy and extensions raise what they like
            path, cause = located(value, where, error, self._written, self._extension)
            why = (
                f"{cause}"
                if isinstance(cause, EncodeError)
                else f"{_UNFORESEEN} ({type(cause).__name__}); use a dict or a tuple"
            )
            msg = f"{path}: {why}, or keep_state=False"
            raise EncodeError(msg) from cause

    def _written(self, value: Any) -> bytes:
        return _write(self._packed(value, 0, _ALWAYS_PLAIN))


_NATIVE: dict[Any, Any] = dict.fromkeys((*_PLAIN, list))


def _is_native(value: Any) -> bool:
    """Return whether msgpack can hold an int or a str."""
    if type(value) is int:
        return -(2**63) <= value < 2**64
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


_CODEC = StateCodec()


def encode_state(value: Any, *, where: str = "state") -> bytes:
    """Return the bytes of a state, which `decode_state` gives back as an equal value of the same types.

    Two references to one list become two equal lists. Sets come back in any order, and equal sets may have different
    bytes. Arrays and frames come back with memory
    of their own, arrays in Fortran order if they were in that order only, and else in C order.

    where     path to the value, for messages
    raises    EncodeError: a type that no state may hold, or more than 100 levels; the message has the path
    """
    return _CODEC.encode(value, where=where)


def decode_state(data: bytes) -> Any:
    """Return the value of a state that `encode_state` wrote; nothing is unpickled or imported by a name in it.

    raises    PoisonEntryError: other bytes, cut-off ones, or a newer format
    """
    return _CODEC.decode(data)
