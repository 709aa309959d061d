"""The table of keys in `tasks.reservoir.keys`, as a check for keys that tests leave in Redis."""

import re
from functools import cache
from typing import Any, NamedTuple

import redis

from tasks.reservoir import keys

__all__ = ["Row", "leaks", "table"]

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_PARTS = {
    "topic": r".+",
    "group": _NAME,
    "scope": rf"{_NAME}(?::\{{\d+\}})?",
    "consumer": r"[^:]+",
    "id": r"\d+-\d+",
    "uuid": r"[0-9a-f]{32}|x|\d+",  # tests give short ones
    "run": r".+",
    "inlet": r"[^:]+:[0-9a-f]{16}",
    "limit": r"[^:]+(?::[0-9a-f]{16})?",
    "tick": r"-?\d+",
    "token": r"\d+",
    "server": r"[0-9a-f]{12}",
}


class Row(NamedTuple):
    """A row of the table; `pattern` matches a whole key."""

    name: str
    pattern: re.Pattern[str]
    type: str
    has_ttl: bool


@cache
def table() -> list[Row]:
    """Return the rows of the table in the docstring of `tasks.reservoir.keys`."""
    assert keys.__doc__
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in keys.__doc__.splitlines() if line.startswith("| ")
    ]
    return [Row(name, _pattern(name), kind, ttl != "none") for name, kind, _, ttl, _ in cells[1:]]


def _pattern(name: str) -> re.Pattern[str]:
    parts = re.split(r"<(\w+)>", name)
    return re.compile("".join(f"(?:{_PARTS[part]})" if n % 2 else re.escape(part) for n, part in enumerate(parts)))


def leaks(client: redis.Redis) -> list[str]:
    """Return a sentence for each key below `sluice:` that is not in the table, or lacks its type or TTL."""
    known: Any = client
    names = sorted(known.scan_iter(match="sluice:*", count=1000))
    with known.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.type(name)
            pipe.pttl(name)
        answers = pipe.execute()
    found = zip(names, answers[::2], answers[1::2], strict=True)
    return [why for name, kind, ttl in found if (why := _why(name.decode(), kind.decode(), ttl))]


def _why(name: str, kind: str, ttl: int) -> str:
    rows = [row for row in table() if row.name.startswith("sluice:") and row.pattern.fullmatch(name)]
    if kind == "none":
        return ""  # it has lapsed
    if not any(row.type == kind for row in rows):
        return f"{name!r}, a {kind}: expected {' or '.join(f'{row.name}, a {row.type}' for row in rows) or 'a key of the table'}"
    if ttl < 0 and all(row.has_ttl for row in rows):
        return f"{name!r} has no TTL"
    return ""
