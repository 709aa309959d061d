"""Types that a state may hold besides msgpack's own: Python's containers, numbers, text, moments and time zones.

Each type is a number and a list of parts, which are values of a state themselves. The numbers are part of the format: a
new type takes a new one, and none is used twice.
"""

import datetime as dt
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import chain
from typing import Any
from zoneinfo import ZoneInfo

from tasks.errors import EncodeError, PoisonEntryError

__all__ = ["BUILTIN_TYPES", "Extension", "checked"]

_MICROSECOND = dt.timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Extension:
    """One more type that a state may hold, exactly as it is: subclasses are refused.

    tag          its number in the stored bytes, for good: 64 to 127, as lower ones are the codec's own
    type         the class; it may be mutable, and hashable or not
    to_parts     returns the values that make up one, which may hold further values of any type of a state;
                 raises EncodeError for one that would not come back equal
    from_parts   returns an equal one from a list of equal parts; raises any Exception for malformed ones,
                 and takes no more memory than in proportion to the parts

    A class of the reservoir, say:

        Extension(64, Entry, lambda entry: (dict(entry), entry.topic, ...), lambda parts: Entry(parts[0], topic=parts[1], ...))
    """

    tag: int
    type: type
    to_parts: Callable[[Any], Sequence[Any]]
    from_parts: Callable[[list[Any]], Any]


def checked(value: Any, *kinds: type) -> Any:
    """Return a part that was read, if it is of one of these types.

    raises    PoisonEntryError: it is not, and could make a constructor take memory without bounds or read text
    """
    if type(value) in kinds:
        return value
    msg = f"expected a part of type {' or '.join(kind.__name__ for kind in kinds)}, got {type(value).__name__}"
    raise PoisonEntryError(msg)


def _flat(pairs: dict[Any, Any]) -> list[Any]:
    return list(chain.from_iterable(pairs.items()))


def _pairs(parts: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(parts[::2], parts[1::2], strict=True)


def _bare(value: Any) -> list[Any]:
    """Return the pairs of a dict whose class lets users set attributes, if none is set."""
    if vars(value):
        msg = f"expected a {type(value).__name__} without attributes, got one with; use a dict"
        raise EncodeError(msg)
    return _flat(value)


def _counter(parts: list[Any]) -> Counter[Any]:
    found: Counter[Any] = Counter()
    dict.update(found, _pairs(parts))
    return found


_FACTORIES: dict[Any, str | None] = {
    None: None,
    **{kind: kind.__name__ for kind in (int, float, list, dict, set, str, tuple)},
}
_FACTORY_NAMES = {name: factory for factory, name in _FACTORIES.items()}


def _defaultdict_parts(value: defaultdict[Any, Any]) -> list[Any]:
    factory: Any = value.default_factory
    try:
        name = _FACTORIES[factory]
    except (KeyError, TypeError):
        known = ", ".join(filter(None, _FACTORIES.values()))
        msg = f"expected a default factory out of {known}, got another; use a dict"
        raise EncodeError(msg) from None
    return [name, *_flat(value)]


def _int_parts(value: int) -> list[Any]:
    return [value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)]


def _datetime_parts(value: dt.datetime) -> tuple[Any, ...]:
    parts = (value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond)
    return parts if value.tzinfo is None and not value.fold else (*parts, value.tzinfo, value.fold)


def _datetime(parts: list[Any]) -> dt.datetime:
    fold = parts.pop() if len(parts) == 9 else 0  # noqa: PLR2004 - with its zone
    return dt.datetime(*parts, fold=fold)  # noqa: DTZ001 - its zone, if any, is the last part


def _time_parts(value: dt.time) -> tuple[Any, ...]:
    parts = (value.hour, value.minute, value.second, value.microsecond)
    return parts if value.tzinfo is None and not value.fold else (*parts, value.tzinfo, value.fold)


def _time(parts: list[Any]) -> dt.time:
    fold = parts.pop() if len(parts) == 6 else 0  # noqa: PLR2004 - with its zone
    return dt.time(*parts, fold=fold)


def _timezone_parts(value: dt.timezone) -> tuple[Any, ...]:
    if value is dt.UTC:
        return ()
    offset, name = value.utcoffset(None), value.tzname(None)
    count = offset // _MICROSECOND
    return (count,) if name == dt.timezone(offset).tzname(None) else (count, name)


def _timezone(parts: list[Any]) -> dt.timezone:
    if not parts:
        return dt.UTC
    count, *name = parts
    return dt.timezone(count * _MICROSECOND, *name)


def _zone_parts(value: ZoneInfo) -> tuple[Any, ...]:
    if value.key is None:
        msg = "expected a time zone with a name, got one of a file; use zoneinfo.ZoneInfo(NAME)"
        raise EncodeError(msg)
    return (value.key,)


BUILTIN_TYPES = (
    Extension(1, tuple, lambda value: value, tuple),
    Extension(2, set, list, set),
    Extension(3, frozenset, list, frozenset),
    Extension(4, dict, _flat, lambda parts: dict(_pairs(parts))),  # with a key that msgpack does not know
    Extension(5, OrderedDict, _bare, lambda parts: OrderedDict(_pairs(parts))),
    Extension(6, Counter, _bare, _counter),
    Extension(
        7, defaultdict, _defaultdict_parts, lambda parts: defaultdict(_FACTORY_NAMES[parts[0]], _pairs(parts[1:]))
    ),
    Extension(8, deque, lambda value: [value.maxlen, *value], lambda parts: deque(parts[1:], parts[0])),
    Extension(9, int, _int_parts, lambda parts: int.from_bytes(checked(*parts, bytes), "little", signed=True)),
    Extension(  # with a lone surrogate
        10,
        str,
        lambda value: [value.encode("utf-8", "surrogatepass")],
        lambda parts: parts[0].decode("utf-8", "surrogatepass"),
    ),
    Extension(11, bytearray, lambda value: [bytes(value)], lambda parts: bytearray(checked(*parts, bytes))),
    Extension(
        12,
        complex,
        lambda value: (value.real, value.imag),
        lambda parts: complex(checked(parts[0], float), checked(parts[1], float)),
    ),
    Extension(13, Decimal, lambda value: (str(value),), lambda parts: Decimal(checked(*parts, str))),
    Extension(
        14,
        Fraction,
        lambda value: (value.numerator, value.denominator),
        lambda parts: Fraction(checked(parts[0], int), checked(parts[1], int)),  # text would be computed: '1e999999999'
    ),
    Extension(15, dt.datetime, _datetime_parts, _datetime),
    Extension(16, dt.date, lambda value: (value.year, value.month, value.day), lambda parts: dt.date(*parts)),
    Extension(17, dt.time, _time_parts, _time),
    Extension(
        18,
        dt.timedelta,
        lambda value: (value.days, value.seconds, value.microseconds),
        lambda parts: dt.timedelta(*parts),
    ),
    Extension(19, dt.timezone, _timezone_parts, _timezone),
    Extension(20, ZoneInfo, _zone_parts, lambda parts: ZoneInfo(*parts)),
    Extension(21, uuid.UUID, lambda value: (value.bytes,), lambda parts: uuid.UUID(bytes=checked(*parts, bytes))),
    Extension(22, range, lambda value: (value.start, value.stop, value.step), lambda parts: range(*parts)),
    Extension(23, slice, lambda value: (value.start, value.stop, value.step), lambda parts: slice(*parts)),
)
