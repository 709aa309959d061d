"""Durations and sizes in text: one grammar for all options and parameters.

A **duration** is a number of seconds (`5`, `0.5`), numbers with units (`500ms`, `1.5 h`, `1h30min`, `2 days`), an ISO 8601
duration (`PT1H30M`, `P2D`, `P1W`), or in Python a `timedelta`. The same grammar holds for `every`, `timeout`, `window`,
`keep`, `lease`, `grace`, `run_for`, `stall_after`, `forget_after` and `--timeout`.

Units, in either case:

ms       also `millisecond`
s        also `sec`, `second`
min      also `m`, `minute`; `M` is refused, because it might be a month
h        also `hr`, `hour`
d        also `day`: 24 hours
w        also `week`: 7 days

Words may be in the plural. Several units go from the longest to the shortest, each at most once, and only the last number
may have a fraction. Fractions have a decimal point: `1,5s` is refused, because a comma separates the limits of `keep`.

ISO 8601 durations are read as the standard defines them: `P[n]DT[n]H[n]M[n]S` or `P[n]W`, in capitals, with a fraction (point or
comma) in the last number only. Years and months are refused, unless they are zero, because their length varies.

A **size** is a number with `B`, `KB`, `MB`, `GB`, `TB` (powers of 1,000) or `KiB`, `MiB`, `GiB`, `TiB` (powers of 1,024), in
either case: `500MB`, `1.5 GiB`. `keep` and `max_waiting` take it.

`keep` and `max_waiting` are lists: `4000, 1h, 500MB`. A part without a unit is a number of entries. Between two digits the comma
needs a space behind it: `4000, 1h`.
"""

import re
from decimal import Decimal

__all__ = ["counted", "duration", "in_time", "size"]

_NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_PART = re.compile(rf"({_NUMBER})[ ]?([A-Za-z]+)")
_PARTS = re.compile(rf"{_NUMBER}[ ]?[A-Za-z]+(?:[ ]?{_NUMBER}[ ]?[A-Za-z]+)*")
_BARE = re.compile(rf"{_NUMBER}(?:[eE][+-]?[0-9]{{1,2}})?")
_COMMA = re.compile(r"[0-9],[0-9]")
# From the longest to the shortest.
_SECONDS = {
    unit: Decimal(seconds)
    for unit, seconds in {"w": "604800", "d": "86400", "h": "3600", "min": "60", "s": "1", "ms": "0.001"}.items()
}
_WORDS = {
    "w": ("week", "weeks"),
    "d": ("day", "days"),
    "h": ("hr", "hrs", "hour", "hours"),
    "min": ("m", "mins", "minute", "minutes"),
    "s": ("sec", "secs", "second", "seconds"),
    "ms": ("millisecond", "milliseconds"),
}
_UNITS = {word: unit for unit, words in _WORDS.items() for word in (unit, *words)}

_ISO_NUMBER = r"([0-9]+(?:[.,][0-9]+)?)"
_ISO = re.compile(
    rf"P(?:{_ISO_NUMBER}W|(?=.)(?:{_ISO_NUMBER}Y)?(?:{_ISO_NUMBER}M)?(?:{_ISO_NUMBER}D)?"
    rf"(?:T(?=.)(?:{_ISO_NUMBER}H)?(?:{_ISO_NUMBER}M)?(?:{_ISO_NUMBER}S)?)?)"
)
_ISO_UNITS = ("w", "year", "month", "d", "h", "min", "s")

_SIZE = re.compile(rf"({_NUMBER})[ ]*([KMGT]i?B|B)", re.IGNORECASE)
_BYTES = {"B": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", 1)
    for suffix, base in (("B", 10**3), ("IB", 2**10))
}


def duration(text: str) -> Decimal:
    """Parse a duration into exact seconds.

    raises    ValueError: not a duration, or one without an exact length; the message names the remedy

    >>> [str(duration(text)) for text in ("500ms", "1h30min", "PT1H30M", "P1W", "0.5")]
    ['0.500', '5400', '5400', '604800', '0.5']
    """
    if _COMMA.search(text) and not text.startswith("P"):
        msg = "write fractions with a decimal point, such as 1.5s"
        raise ValueError(msg)
    if text.startswith("P"):
        return _iso(text)
    if _BARE.fullmatch(text):
        return Decimal(text)
    if not _PARTS.fullmatch(text):
        msg = "write numbers with units (ms, s, min, h, d, w), a number of seconds or an ISO 8601 duration"
        raise ValueError(msg)
    return _sum([(number, _unit(name)) for number, name in _PART.findall(text)])


def size(text: str) -> int | None:
    """Parse a size into whole bytes; None if the text is not a size.

    >>> size("1.5KB"), size("1 MiB"), size("5s")
    (1500, 1048576, None)
    """
    found = _SIZE.fullmatch(text)
    return int(Decimal(found[1]) * _BYTES[found[2].upper()]) if found else None


def in_time(seconds: float) -> str:
    """Return a duration as text, in the largest unit of which it has at least two.

    >>> in_time(86.4), in_time(7_300), in_time(0.24)
    ('86 s', '2 h', '0.2 s')
    """
    if seconds < 10:  # noqa: PLR2004 - a tenth matters
        return f"{seconds:.1f} s"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _unit(name: str) -> str:
    if name == "M":
        msg = "write min for minutes; a month has no exact length: write days"
        raise ValueError(msg)
    if (unit := _UNITS.get(name.lower())) is None:
        msg = "the units are ms, s, min, h, d and w"
        raise ValueError(msg)
    return unit


def _iso(text: str) -> Decimal:
    if (found := _ISO.fullmatch(text)) is None:
        msg = "write an ISO 8601 duration as P[n]DT[n]H[n]M[n]S or P[n]W, such as PT1H30M"
        raise ValueError(msg)
    parts = [
        (number.replace(",", "."), unit) for number, unit in zip(found.groups(), _ISO_UNITS, strict=True) if number
    ]
    if any(unit in ("year", "month") and Decimal(number) for number, unit in parts):
        msg = "years and months have no exact length: write days, such as P30D"
        raise ValueError(msg)
    return _sum([part for part in parts if part[1] in _SECONDS])


def _sum(parts: list[tuple[str, str]]) -> Decimal:
    longest_first = list(_SECONDS)
    places = [longest_first.index(unit) for _, unit in parts]
    if places != sorted(set(places)):
        msg = "write each unit once, from the longest to the shortest"
        raise ValueError(msg)
    if any("." in number for number, _ in parts[:-1]):
        msg = "only the last number may have a fraction"
        raise ValueError(msg)
    return sum((Decimal(number) * _SECONDS[unit] for number, unit in parts), Decimal())


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun.

    >>> counted(1, "entry", "entries"), counted(2000, "run")
    ('1 entry', '2,000 runs')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
