"""Paths to parts of a state that cannot be encoded, and remedies, for messages."""

import contextlib
import datetime as dt
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

from tasks.codec.state_types import Extension

__all__ = ["cure", "located"]

_KEYS_SHOWN = frozenset((type(None), bool, int, float, str, bytes))


def located(
    value: Any,
    where: str,
    error: Exception,
    encode: Callable[[Any], object],
    extension: Callable[[type], Extension | None],
) -> tuple[str, Exception]:
    """Return the path to the innermost part that is refused, and its error.

    Encodes the parts of each level again, so that the encoder itself needs to keep no paths.

    where      path to `value`
    error      that `encode` raised for `value`
    extension  returns how a type is encoded; None for one that is refused itself
    """
    for label, part in _labelled(value, extension):
        try:
            encode(part)
        except Exception as inner:  # noqa: BLE001 - returned
            return located(part, f"{where}{label}", inner, encode, extension)
    return where, error


def _labelled(value: Any, extension: Callable[[type], Extension | None]) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a value, each with its place in it; none of a type that is refused itself."""
    kind = type(value)
    if kind in (list, tuple, deque):
        yield from ((f"[{i}]", item) for i, item in enumerate(value))
    elif kind in (dict, OrderedDict, Counter, defaultdict):
        yield from ((" (a key)", key) for key in value)
        yield from ((f"[{_short(key)}]", item) for key, item in value.items())
    elif kind in (set, frozenset):
        yield from ((" (an item)", item) for item in value)
    elif found := extension(kind):
        with contextlib.suppress(Exception):  # then this is the error to show
            yield from [("", part) for part in found.to_parts(value)]


def _short(key: Any) -> str:
    if type(key) not in _KEYS_SHOWN:
        return type(key).__name__
    text = repr(key)
    return text if len(text) <= 40 else f"{text[:37]}..."  # noqa: PLR2004 - enough to find it


def cure(value: Any) -> str:
    """Return the remedy for a value of a type that no state may hold."""
    if isinstance(value, dt.tzinfo):
        return "use zoneinfo.ZoneInfo(NAME)"
    if plain := next((kind for kind in (str, int, float, bytes) if isinstance(value, kind)), None):
        return f"use {plain.__name__}()"
    return "use a dict or a tuple"
