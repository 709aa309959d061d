"""Levels over time: samples in a stream of their own, capped, and what an artifact shows of them."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis

from tasks.levels import GroupLevel, TopicLevel

__all__ = ["History", "Sample", "markdown", "short_bytes"]

KEY = "sluice:levels"
# A week at one in five minutes.
KEEP_SAMPLES = 2_016
_TTL_MS = 30 * 86_400_000
_CHARTS = 6  # at most: the longest lags
_LAGGING = 2  # entries: a group that is never further behind than that needs no chart


@dataclass(frozen=True, slots=True)
class Sample:
    """The lag, dead letters and spilled entries of each group, as (topic, group), at one moment."""

    time: datetime
    lags: dict[tuple[str, str], int | None]
    dead: dict[tuple[str, str], int]
    spilled: dict[tuple[str, str], int]


class History:
    """The samples in Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once

    def add(self, levels: Iterable[TopicLevel]) -> None:
        """Append a sample; the oldest goes when there are too many."""
        rows = [[topic, g.name, g.lag, g.dead + g.dead_dropped, g.spilled] for topic, g in _groups(levels)]
        with self._client.pipeline() as pipe:
            pipe.xadd(KEY, {"groups": json.dumps(rows)}, maxlen=KEEP_SAMPLES, approximate=True)
            pipe.pexpire(KEY, _TTL_MS)
            pipe.execute()

    def latest(self, n: int = 1) -> list[Sample]:
        """Return the newest `n` samples, oldest first."""
        samples = []
        for id_, fields in reversed(self._client.xrevrange(KEY, count=n)):
            rows = json.loads(fields[b"groups"])
            samples.append(
                Sample(
                    datetime.fromtimestamp(int(id_.partition(b"-")[0]) / 1000, UTC),
                    lags={(topic, group): lag for topic, group, lag, _, _ in rows},
                    dead={(topic, group): dead for topic, group, _, dead, _ in rows},
                    spilled={(topic, group): spilled for topic, group, _, _, spilled in rows},
                )
            )
        return samples


def markdown(levels: Sequence[TopicLevel], samples: Sequence[Sample]) -> str:
    """Return the levels as two tables, and charts of the lags of the groups that lag."""
    topics = [
        [t.topic, f"{t.length:,}", short_bytes(t.bytes), _or_unknown(t.rate, "{:.3g}/s"), _moment(t.first_id), _moment(t.last_id),
         str(t.keep or "all")]
        for t in levels
    ]  # fmt: skip
    groups = [
        [topic, g.name + (" (forgotten)" if g.is_forgotten else ""), _or_unknown(g.lag, "{:,}"), f"{g.pending:,}",
         _or_unknown(g.oldest_pending, "{:,.0f} s", "-"), str(g.consumers), f"{g.dead:,}" + (f" (+{g.dead_dropped:,} dropped)" if g.dead_dropped else ""),
         f"{g.spilled:,}"]
        for topic, g in _groups(levels)
    ]  # fmt: skip
    parts = [
        "## Topics",
        _table(["topic", "entries", "bytes", "rate", "oldest", "newest", "keeps"], topics),
        "## Groups",
        _table(["topic", "group", "lag", "pending", "oldest pending", "consumers", "dead letters", "spilled"], groups),
    ]
    if charts := list(_charts(samples)):
        parts += ["## Lag over time", *charts]
    return "\n\n".join(parts)


def short_bytes(n: int | None) -> str:
    """Return a number of bytes for people.

    >>> short_bytes(1_234_567)
    '1.2 MB'
    """
    if n is None:
        return "?"
    size = float(n)
    for unit in ("B", "kB", "MB"):
        if size < 1000:  # noqa: PLR2004 - where the next unit begins
            return f"{size:.3g} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _groups(levels: Iterable[TopicLevel]) -> Iterator[tuple[str, GroupLevel]]:
    return ((level.topic, group) for level in levels for group in level.groups)


def _charts(samples: Sequence[Sample]) -> Iterator[str]:
    """Return a chart for each group that lags: Mermaid has no legend for several lines in one."""
    most: dict[tuple[str, str], int] = {}
    for sample in samples:
        for who, lag in sample.lags.items():
            most[who] = max(most.get(who, 0), lag or 0)
    for who in sorted(most, key=lambda who: -most[who])[:_CHARTS]:
        points = [(sample.time, lag) for sample in samples if (lag := sample.lags.get(who)) is not None]
        if most[who] <= _LAGGING or len(points) < 2:  # noqa: PLR2004 - a line has two ends
            continue
        minutes = (points[-1][0] - points[0][0]).total_seconds() / 60
        yield "\n".join(
            [
                "```mermaid",
                "xychart-beta",
                f'  title "{who[1]} on {who[0]}"',
                f'  x-axis "minutes ago" {-minutes:.0f} --> 0',
                f'  y-axis "entries" 0 --> {max(most[who], 1)}',
                f"  line [{', '.join(str(lag) for _, lag in points)}]",
                "```",
            ]
        )


def _table(head: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return "none yet"
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _or_unknown(value: float | None, form: str, unknown: str = "?") -> str:
    return unknown if value is None else form.format(value)


def _moment(entry_id: str | None) -> str:
    if entry_id is None:
        return "-"
    return f"{datetime.fromtimestamp(int(entry_id.partition('-')[0]) / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
