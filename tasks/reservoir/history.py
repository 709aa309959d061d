"""Levels over time: samples in a capped stream."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import starmap
from typing import Any, NamedTuple

import redis

from tasks.base.ids import id_time
from tasks.reservoir.keys import LEVELS
from tasks.reservoir.levels import TopicLevel
from tasks.reservoir.topic_names import is_topic

__all__ = ["History", "Sample"]

# One week with a sample every five minutes.
KEEP_SAMPLES = 2_016
_TTL_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class Sample:
    """Lag, dead letters and spilled entries at one moment, by (topic, group)."""

    time: datetime
    lags: dict[tuple[str, str], int | None]
    dead: dict[tuple[str, str], int]
    spilled: dict[tuple[str, str], int]


class Row(NamedTuple):
    """One group of a stored sample."""

    topic: str
    group: str
    lag: int | None
    dead: int
    spilled: int

    @property
    def who(self) -> tuple[str, str]:
        """The topic and the group."""
        return self.topic, self.group

    @property
    def is_sound(self) -> bool:
        """Whether all values have the expected types: another program may have stored any JSON."""
        names = isinstance(self.topic, str) and is_topic(self.topic) and isinstance(self.group, str)
        return names and all(type(n) is int for n in (self.lag or 0, self.dead, self.spilled))


class History:
    """The samples in Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once

    def add(self, levels: Iterable[TopicLevel], before: Sample | None = None) -> None:
        """Append a sample, and trim the oldest ones; an unreadable topic keeps its counts from `before`."""
        rows: list[list[Any]] = []
        for level in levels:
            rows += [[level.topic, g.name, g.lag, g.dead + g.dead_dropped, g.spilled] for g in level.groups]
            if level.unreadable and before:
                known = [who for who in before.dead if who[0] == level.topic]
                rows += [[*who, None, before.dead[who], before.spilled[who]] for who in known]
        with self._client.pipeline() as pipe:
            pipe.xadd(LEVELS, {"groups": json.dumps(rows)}, maxlen=KEEP_SAMPLES, approximate=True)
            pipe.pexpire(LEVELS, _TTL_MS)
            pipe.execute()

    def latest(self, n: int = 1) -> list[Sample]:
        """Return the newest `n` samples, oldest first; skip entries of other programs."""
        return list(itertools.islice(filter(None, starmap(_sample, self._newest_first(n))), n))[::-1]

    def _newest_first(self, count: int) -> Iterator[tuple[bytes, Mapping[bytes, bytes]]]:
        end = "+"
        while page := self._client.xrevrange(LEVELS, max=end, count=count):
            yield from page
            end = f"({page[-1][0].decode()}"


def _sample(id_: bytes, fields: Mapping[bytes, bytes]) -> Sample | None:
    """Return a sample that `History.add` appended; None for any other entry."""
    try:
        rows = [Row(*row) for row in json.loads(fields[b"groups"])]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not all(row.is_sound for row in rows):
        return None
    return Sample(
        id_time(id_.decode()),
        lags={row.who: row.lag for row in rows},
        dead={row.who: row.dead for row in rows},
        spilled={row.who: row.spilled for row in rows},
    )
