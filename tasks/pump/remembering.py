"""Gives each call of a pump what the inlet remembers, and finds what it remembers afterwards."""

import copy
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Self

from tasks import codec
from tasks.errors import EncodeError, PumpError
from tasks.pump.cursor import Cursor
from tasks.reservoir.cursors import CursorStore, Memory

__all__ = ["MAX_CURSOR_BYTES", "Remembering"]

MAX_CURSOR_BYTES = 64 * 1024

Encoded = list[dict[bytes, bytes]]


class Remembering:
    """The cursor of a pump, and the entries that it pushed last. Its methods run in the thread of the pump's call.

    pump             called with its cursor, if `parameter` names one
    parameter        name of the pump's parameter of type `Cursor`; '' for none
    start            the cursor's first value
    only_if_changed  push only entries that differ from those of the last push: True compares them whole, a name that field alone
    """

    def __init__(
        self,
        pump: Callable[..., Any],
        *,
        name: str,
        parameter: str = "",
        start: Any = None,
        only_if_changed: bool | str = False,
    ) -> None:
        self._pump = pump
        self._name = name
        self._parameter = parameter
        self._start = start
        self._only_if_changed = only_if_changed

    @classmethod
    def of(cls, pump: Callable[..., Any], store: CursorStore | None, **options: Any) -> Self | None:
        """Return one for an inlet with a stored cursor, None for another inlet."""
        return None if store is None else cls(pump, **options)

    def cursor(self, memory: Memory) -> Cursor:
        """Return the cursor for one call."""
        return Cursor(codec.decode(memory.value) if memory.value else copy.deepcopy(self._start))

    def call(self, cursor: Cursor, **arguments: Any) -> Any:
        """Call the pump with its cursor, and with further arguments."""
        return self._pump(**arguments, **({self._parameter: cursor} if self._parameter else {}))

    def after(self, memory: Memory, cursor: Cursor, encoded: Encoded) -> tuple[Encoded, Memory]:
        """Return the entries to push after a call, and what to remember with them.

        raises    EncodeError: a value that no cursor can hold; PumpError: a field to compare is missing
        """
        digest = memory.digest
        if encoded and self._only_if_changed:
            digest = _digest(encoded, self._only_if_changed, self._name)
            if digest == memory.digest:
                encoded = []
        return encoded, Memory(self._value(memory, cursor), digest)

    def _value(self, memory: Memory, cursor: Cursor) -> bytes:
        if not self._parameter:
            return memory.value
        value = _encoded(cursor.value, self._name)
        # Until the pump moves its cursor, the parameter's default applies, also if it is edited.
        return value if memory.value or value != _encoded(self._start, self._name) else b""


def _encoded(value: Any, name: str) -> bytes:
    data = codec.encode(value)
    if len(data) > MAX_CURSOR_BYTES:
        msg = (
            f"pump {name!r}: expected a cursor of at most {MAX_CURSOR_BYTES:,} bytes, got {len(data):,}; nothing was pushed; "
            "a cursor is the place in a source, such as an id or a time"
        )
        raise EncodeError(msg)
    return data


def _digest(encoded: Encoded, by: bool | str, name: str) -> bytes:  # noqa: FBT001 - an option
    """Return a digest of entries, or of one of their fields."""
    hashed = hashlib.sha256()
    for fields in encoded:
        for field, data in _compared(fields, by, name).items():
            for part in (field, data):
                hashed.update(len(part).to_bytes(8, "big"))
                hashed.update(part)
        hashed.update(b"\0")
    return hashed.hexdigest().encode()


def _compared(fields: Mapping[bytes, bytes], by: bool | str, name: str) -> Mapping[bytes, bytes]:  # noqa: FBT001
    if not isinstance(by, str):
        return fields
    field = by.encode()
    if field not in fields:
        msg = f"pump {name!r}: expected the field {by!r} in each entry, because only_if_changed compares it; nothing was pushed"
        raise PumpError(msg)
    return {field: fields[field]}
