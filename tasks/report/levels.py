"""Levels of all topics and groups as Markdown: two tables, and a chart of each lag over time."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise

from tasks.base.ids import id_time
from tasks.base.plain_text import in_mermaid
from tasks.report.alarms import alarms_shown
from tasks.report.pipeline import cell, table
from tasks.reservoir.alarms import Alarm
from tasks.reservoir.history import Sample
from tasks.reservoir.levels import GroupLevel, TopicLevel

__all__ = ["markdown", "short_bytes"]

_CHARTS = 6  # at most, for the longest lags
_STEPS = 500  # points per chart, which is 700 pixels wide
_LONG = 180  # minutes above which a chart is labelled in hours
# Prefect's UI (3.9.1) draws a chart's first line in a pale yellow, which can hardly be seen on its light grey.
_LINE = '%%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "#c0392b"}}}}%%'
_REASON = 500  # characters
_NAME = 60  # characters of a topic or a group in a chart's title
_LAGGING = 2  # entries; a group with no longer lag needs no chart


def markdown(levels: Sequence[TopicLevel], samples: Sequence[Sample], alarms: Sequence[Alarm] = ()) -> str:
    """Return the alarms, the levels as two tables, and charts of the lags of the groups that lag."""
    topics = [
        (cell(level.topic), f"{level.length:,}", _unbroken(short_bytes(level.bytes)), _or_unknown(level.rate, "{:.3g}/s"),
         _moment(level.first_id), _moment(level.last_id), cell(level.keep or "all"))
        for level in levels
        if not level.unreadable
    ]  # fmt: skip
    groups = [
        (cell(topic), cell(g.name + g.remark), _or_unknown(g.lag, "{:,}"), g.behind_by, f"{g.pending:,}",
         _or_unknown(g.oldest_pending, "{:,.0f} s", "-"), g.consumers, f"{g.dead:,}" + (f" (+{g.dead_dropped:,} dropped)" if g.dead_dropped else ""),
         f"{g.spilled:,}")
        for topic, g in _groups(levels)
    ]  # fmt: skip
    parts = ["## Alarms", alarms_shown(alarms)] if alarms else []
    parts += [
        "## Topics",
        _table(("topic", "entries", "bytes", "rate", "oldest (UTC)", "newest (UTC)", "keeps"), topics),
        "## Groups",
        _table(
            ("topic", "group", "lag", "behind by", "pending", "oldest pending", "consumers", "dead letters", "spilled"),
            groups,
        ),
    ]
    if unreadable := [(cell(level.topic), cell(level.unreadable, _REASON)) for level in levels if level.unreadable]:
        parts += ["## Unreadable", _table(("topic", "why"), unreadable)]
    if charts := list(_charts(samples)):
        parts += ["## Lag over time", *charts]
    return "\n\n".join(parts)


def short_bytes(n: int | None) -> str:
    """Return a number of bytes in a readable unit.

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
    """Yield one chart for each lagging group, because Mermaid has no legend for several lines."""
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
    """Return the values at even intervals, as a chart draws them, about as many as were sampled.

    Gaps between samples repeat the last value.
    """
    times = [time.timestamp() for time, _ in points]
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    steps = max(1, min(_STEPS, round((times[-1] - times[0]) / max(gaps[len(gaps) // 2], 1e-3))))
    step = (times[-1] - times[0]) / steps
    # Half a step later, so that a sample that is a second late counts for its own moment and not the next.
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
