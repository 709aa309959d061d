"""Levels over time: samples in a stream of their own, capped, and what an artifact shows of them."""

import itertools
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise, starmap
from typing import Any, NamedTuple

import redis

from tasks.base.ids import id_time
from tasks.base.plain_text import in_mermaid
from tasks.report.pipeline import cell, table
from tasks.reservoir.levels import GroupLevel, TopicLevel
from tasks.settings import is_topic

__all__ = ["History", "Sample", "markdown", "short_bytes"]

KEY = "sluice:levels"
# A week at one in five minutes.
KEEP_SAMPLES = 2_016
_TTL_MS = 30 * 86_400_000
_CHARTS = 6  # at most: the longest lags
_STEPS = 500  # of a chart, which is 700 pixels wide
_LONG = 180  # minutes from which on a chart counts in hours
# In the colours that Prefect's UI gives Mermaid, a chart's first line is white on white (3.8.8).
_LINE = '%%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "#c0392b"}}}}%%'
_REASON = 500  # characters
_NAME = 60  # characters of a topic or a group in a chart's title
_LAGGING = 2  # entries: a group that is never further behind than that needs no chart


@dataclass(frozen=True, slots=True)
class Sample:
    """The lag, dead letters and spilled entries of each group, as (topic, group), at one moment."""

    time: datetime
    lags: dict[tuple[str, str], int | None]
    dead: dict[tuple[str, str], int]
    spilled: dict[tuple[str, str], int]


class Row(NamedTuple):
    """One group of a sample, as it is stored."""

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
        """Whether its values have the types that they should have: JSON can hold any."""
        names = isinstance(self.topic, str) and is_topic(self.topic) and isinstance(self.group, str)
        return names and all(type(n) is int for n in (self.lag or 0, self.dead, self.spilled))


class History:
    """The samples in Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once

    def add(self, levels: Iterable[TopicLevel], before: Sample | None = None) -> None:
        """Append a sample; the oldest goes when there are too many. Topics that cannot be read stay as they were `before`."""
        rows: list[list[Any]] = []
        for level in levels:
            rows += [[level.topic, g.name, g.lag, g.dead + g.dead_dropped, g.spilled] for g in level.groups]
            if level.unreadable and before:
                known = [who for who in before.dead if who[0] == level.topic]
                rows += [[*who, None, before.dead[who], before.spilled[who]] for who in known]
        with self._client.pipeline() as pipe:
            pipe.xadd(KEY, {"groups": json.dumps(rows)}, maxlen=KEEP_SAMPLES, approximate=True)
            pipe.pexpire(KEY, _TTL_MS)
            pipe.execute()

    def latest(self, n: int = 1) -> list[Sample]:
        """Return the newest `n` samples, oldest first; entries that other programs put among them are passed over."""
        return list(itertools.islice(filter(None, starmap(_sample, self._newest_first(n))), n))[::-1]

    def _newest_first(self, count: int) -> Iterator[tuple[bytes, Mapping[bytes, bytes]]]:
        end = "+"
        while page := self._client.xrevrange(KEY, max=end, count=count):
            yield from page
            end = f"({page[-1][0].decode()}"


def _sample(id_: bytes, fields: Mapping[bytes, bytes]) -> Sample | None:
    """Return what `History.add` appended; None if it was not that."""
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


def markdown(levels: Sequence[TopicLevel], samples: Sequence[Sample]) -> str:
    """Return the levels as two tables, and charts of the lags of the groups that lag."""
    topics = [
        (cell(level.topic), f"{level.length:,}", _unbroken(short_bytes(level.bytes)), _or_unknown(level.rate, "{:.3g}/s"),
         _moment(level.first_id), _moment(level.last_id), cell(level.keep or "all"))
        for level in levels
        if not level.unreadable
    ]  # fmt: skip
    groups = [
        (cell(topic), cell(g.name + g.remark), _or_unknown(g.lag, "{:,}"), f"{g.pending:,}",
         _or_unknown(g.oldest_pending, "{:,.0f} s", "-"), g.consumers, f"{g.dead:,}" + (f" (+{g.dead_dropped:,} dropped)" if g.dead_dropped else ""),
         f"{g.spilled:,}")
        for topic, g in _groups(levels)
    ]  # fmt: skip
    parts = [
        "## Topics",
        _table(("topic", "entries", "bytes", "rate", "oldest (UTC)", "newest (UTC)", "keeps"), topics),
        "## Groups",
        _table(("topic", "group", "lag", "pending", "oldest pending", "consumers", "dead letters", "spilled"), groups),
    ]
    if unreadable := [(cell(level.topic), cell(level.unreadable, _REASON)) for level in levels if level.unreadable]:
        parts += ["## Unreadable", _table(("topic", "why"), unreadable)]
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
        unit, length = ("hours", minutes / 60) if minutes > _LONG else ("minutes", minutes)
        yield "\n".join(
            [
                "```mermaid",
                _LINE,
                "xychart-beta",
                f'  title "{in_mermaid(who[1], _NAME)} on {in_mermaid(who[0], _NAME)}"',
                f'  x-axis "{unit} up to now" {-length:.3g} --> 0',
                f'  y-axis "entries behind" 0 --> {max(most[who], 1)}',
                f"  line [{', '.join(map(str, _evenly(points)))}]",
                "```",
            ]
        )


def _evenly(points: Sequence[tuple[datetime, int]]) -> list[int]:
    """Return the values at even distances, which is how a chart puts them, about as close as they were sampled.

    Where nothing was sampled for a while it is the last one before.
    """
    times = [time.timestamp() for time, _ in points]
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    steps = max(1, min(_STEPS, round((times[-1] - times[0]) / max(gaps[len(gaps) // 2], 1e-3))))
    step = (times[-1] - times[0]) / steps
    # Half a step later: a sample that came a second late belongs to its own moment, not to the next.
    moments = [times[0] + (n + 0.5) * step for n in range(steps)]
    return [points[bisect_right(times, moment) - 1][1] for moment in moments] + [points[-1][1]]


def _table(head: tuple[str, ...], rows: Sequence[Iterable[object]]) -> str:
    return table(head, rows) if rows else "none yet"


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _or_unknown(value: float | None, form: str, unknown: str = "?") -> str:
    return unknown if value is None else form.format(value)


def _moment(entry_id: str | None) -> str:
    if entry_id is None:
        return "-"
    return f"{id_time(entry_id):%Y-%m-%d %H:%M:%S}"
