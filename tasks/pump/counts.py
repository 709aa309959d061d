"""Reads what all runs of each inlet have counted together."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis

from tasks.reservoir.keys import beat_key, inlet_of
from tasks.reservoir.topic_names import is_topic

__all__ = ["InletCounts", "beats", "counts_of", "redis_ms"]

_COUNT, _LATEST = b"count:", b"latest:"


@dataclass(frozen=True, slots=True)
class InletCounts:
    """The counts of an inlet with one set of parameters, since its beat began: `Summary.totals`, by name.

    inlet         its name
    digest        of its parameters
    latest        the time of each count's last increase, in ms by the clock of Redis
    fresh_within  seconds within which it has to push something newer; 0 if it may be silent
    fresh_since   the time since when this holds, as in `latest`
    """

    inlet: str
    digest: str
    topic: str
    totals: dict[str, int]
    latest: dict[str, int] = field(default_factory=dict)
    fresh_within: float = 0.0
    fresh_since: int = 0


def beats(client: redis.Redis) -> list[str]:
    """Return the keys of all beats, sorted. Redis looks at each of its keys for it."""
    found = (key.decode(errors="replace") for key in client.scan_iter(match=beat_key("*"), count=1000, _type="HASH"))
    return sorted(key for key in found if inlet_of(key).count(":") == 1)


def counts_of(client: redis.Redis, keys: Iterable[str]) -> list[InletCounts]:
    """Return the counts of those beats that have any, read in one round trip; values of other programs are skipped."""
    if not (names := list(keys)):
        return []
    with client.pipeline(transaction=False) as pipe:
        for key in names:
            pipe.hgetall(key)
        answers: list[Any] = pipe.execute(raise_on_error=False)
    found = []
    for key, fields in zip(names, answers, strict=True):
        if isinstance(fields, redis.ResponseError):
            continue
        if isinstance(fields, Exception):
            raise fields
        inlet, _, digest = inlet_of(key).partition(":")
        topic = fields.get(b"topic", b"").decode(errors="replace")
        with suppress(ValueError):
            counts = InletCounts(
                inlet,
                digest,
                topic,
                totals=_numbers(fields, _COUNT),
                latest=_numbers(fields, _LATEST),
                fresh_within=float(fields.get(b"fresh_within", 0)),
                fresh_since=int(fields.get(b"fresh_since", 0)),
            )
            if (counts.totals or counts.fresh_within) and is_topic(topic):
                found.append(counts)
    return found


def redis_ms(client: redis.Redis) -> int:
    """Return the time by the clock of Redis, in ms."""
    answer: Any = client.time()
    seconds, microseconds = answer
    return seconds * 1000 + microseconds // 1000


def _numbers(fields: dict[bytes, bytes], prefix: bytes) -> dict[str, int]:
    return {name.removeprefix(prefix).decode(): int(n) for name, n in fields.items() if name.startswith(prefix)}
