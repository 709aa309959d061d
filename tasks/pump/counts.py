"""Reads what all runs of each inlet have counted together."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis

from tasks.reservoir.keys import beat_key, inlet_of
from tasks.reservoir.topic_names import is_topic

__all__ = ["InletCounts", "beats", "counts_of"]

_COUNT = b"count:"


@dataclass(frozen=True, slots=True)
class InletCounts:
    """The counts of an inlet with one set of parameters, since its beat began: `Summary.totals`, by name.

    inlet     its name
    digest    of its parameters
    """

    inlet: str
    digest: str
    topic: str
    totals: dict[str, int]


def beats(client: redis.Redis) -> list[str]:
    """Return the keys of all beats, sorted. Redis looks at each of its keys for it."""
    found = (key.decode(errors="replace") for key in client.scan_iter(match=beat_key("*"), count=1000, _type="HASH"))
    return sorted(key for key in found if inlet_of(key).count(":") == 1)


def counts_of(client: redis.Redis, keys: Iterable[str]) -> list[InletCounts]:
    """Return the counts of those beats that have any, read in one round trip; what other programs put there is left out."""
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
        totals = {}
        with suppress(ValueError):
            totals = {
                name.removeprefix(_COUNT).decode(): int(n) for name, n in fields.items() if name.startswith(_COUNT)
            }
        if totals and is_topic(topic):
            found.append(InletCounts(inlet, digest, topic, totals))
    return found
