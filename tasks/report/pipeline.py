"""Reports as Markdown: the graph of a pipeline with its counts, its topics, its last result, and dead letters."""

import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from streamz import Stream

from tasks.base.ids import id_numbers, id_time
from tasks.base.plain_text import in_markdown, in_mermaid, one_line, shortened
from tasks.base.quantities import in_time
from tasks.codec.values import is_frame, is_pandas
from tasks.group.dead_letters import Letter, Outcome
from tasks.pipeline.guard import Meter
from tasks.pipeline.retrying import Retried
from tasks.reservoir.levels import TopicLevel

__all__ = [
    "BAD",
    "GraphCounts",
    "as_of",
    "cell",
    "counts_of",
    "diagram",
    "letters_table",
    "memory_table",
    "nodes_table",
    "position",
    "replay_ends",
    "result_table",
    "retried_table",
    "table",
    "topics_table",
    "total",
]

BAD = "classDef bad fill:#c0392b,stroke:#7b241c,color:#ffffff"
"""The definition of a Mermaid class that draws a node in red."""

_SLOW = "classDef slow fill:#f39c12,stroke:#b9770e,color:#000000"
_BUSY = 0.5  # part of the time from which a node is slow: it alone limits the pipeline to twice its present rate

_ROWS, _WIDTH = 10, 60
# Prefect's UI gives a report half the width of a page, 570 of 1,200 pixels, and draws what is wider over its right column. A
# character takes 7.5 of them, and a column's margins as much as two characters (3.9.1).
_LINE, _MARGIN = 76, 2
_LETTERS, _EXCEPTION_WIDTH = 200, 200
_REASON = 500
_RETRIED = 10  # calls that a report shows
_HEAD_BYTES = 2**26
_NAME, _TEXT = 200, 1_000
_FIRST_TIME = 10**12  # milliseconds since the epoch, in 2001: smaller numbers are ids that a program has chosen
_LARGE, _HUGE = 1e5, 1e15  # between them, a float is written as an integer
_LYING = 3  # nodes that fit side by side


@dataclass(frozen=True, slots=True)
class GraphCounts:
    """The meters of a graph's nodes at one moment, and the elements that have passed along each of its edges.

    emitted   None for a node without downstream nodes
    arrows    elements that one node passed to another, by the positions of both
    """

    names: tuple[str, ...]
    received: tuple[int, ...]
    emitted: tuple[int | None, ...]
    failed: tuple[int, ...]
    waiting: tuple[int, ...]
    seconds: tuple[float, ...]
    arrows: dict[tuple[int, int], int]
    at: float = field(compare=False)


def counts_of(meters: Iterable[Meter]) -> GraphCounts:
    """Return the counts of a graph from the meters of its nodes."""
    found = list(meters)
    place = {meter.node: n for n, meter in enumerate(found)}
    arrows: dict[tuple[int, int], int] = {}
    emitted: list[int | None] = []
    for n, meter in enumerate(found):
        following = [place[each] for each in meter.node.downstreams if each in place]
        arrows |= {(n, to): _along(meter.node, found[to]) for to in following}
        emitted.append(max((arrows[n, to] for to in following), default=None))
    return GraphCounts(
        names=tuple(meter.name for meter in found),
        # A source receives nothing; it counts as receiving what it emits.
        received=tuple(meter.received if meter.node.upstreams else emitted[n] or 0 for n, meter in enumerate(found)),
        emitted=tuple(emitted),
        failed=tuple(meter.failed for meter in found),
        waiting=tuple(meter.waiting for meter in found),
        seconds=tuple(meter.seconds for meter in found),
        arrows=arrows,
        at=time.monotonic(),
    )


def total(counts: Iterable[GraphCounts]) -> GraphCounts:
    """Return the counts of graphs that were built alike, added up; of at least one."""
    first, *others = counts
    for other in others:
        first = GraphCounts(
            names=first.names,
            received=_sums(first.received, other.received),
            emitted=tuple(
                None if one is None or two is None else one + two
                for one, two in zip(first.emitted, other.emitted, strict=False)
            ),
            failed=_sums(first.failed, other.failed),
            waiting=_sums(first.waiting, other.waiting),
            seconds=_sums(first.seconds, other.seconds),
            arrows={edge: count + other.arrows.get(edge, 0) for edge, count in first.arrows.items()},
            at=first.at,
        )
    return first


def _sums(one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=False))


def _along(node: Stream, to: Meter) -> int:
    return to.came[node] if len(to.node.upstreams) > 1 else to.received


def diagram(
    flow: GraphCounts,
    before: GraphCounts | None = None,
    *,
    stalled: Collection[str] = (),
    retried: Collection[Retried] = (),
) -> str:
    """Return the graph as a Mermaid diagram in Markdown: elements per second on its edges, failing and stalled nodes in red, slow ones in orange.

    A node is slow if it alone took more than half of the time since `before`, or if it tries failed calls again.

    before    counts of the same graph some seconds ago; without them there are no rates
    stalled   names of nodes that make no progress
    retried   the calls that are tried again
    """
    # Mermaid scales a long chain from left to right down until it is unreadable.
    lines = ["```mermaid", f"flowchart {'LR' if len(flow.names) <= _LYING else 'TD'}"]
    busy = _busy(flow, before)
    again = Counter(one.node for one in retried)
    for n, name in enumerate(flow.names):
        trouble = f", {flow.failed[n]:,} failed" * bool(flow.failed[n]) + ", stalled" * (name in stalled)
        trouble += f", {again[name]:,} tried again" * bool(again[name]) + f", busy {busy[n]:.0%}" * (busy[n] > _BUSY)
        lines.append(f'  n{n}["{in_mermaid(name, _NAME) + trouble}"]')
    for (tail, head), count in flow.arrows.items():
        rate = ""
        if before and before.names == flow.names:
            rate = f'|"{_rate(count - before.arrows.get((tail, head), 0), flow.at - before.at)}"|'
        lines.append(f"  n{tail} -->{rate} n{head}")
    bad = [f"n{n}" for n, name in enumerate(flow.names) if flow.failed[n] or name in stalled]
    if bad:
        lines += [f"  {BAD}", f"  class {','.join(bad)} bad"]
    slow = [f"n{n}" for n, part in enumerate(busy) if (part > _BUSY or again[flow.names[n]]) and f"n{n}" not in bad]
    if slow:
        lines += [f"  {_SLOW}", f"  class {','.join(slow)} slow"]
    return "\n".join([*lines, "```"])


def _busy(flow: GraphCounts, before: GraphCounts | None) -> list[float]:
    """Return the part of the time since `before` that each node alone took, at most all of it."""
    if before is None or before.names != flow.names or flow.at <= before.at:
        return [0.0] * len(flow.names)
    elapsed = flow.at - before.at
    return [min(1.0, (now - then) / elapsed) for now, then in zip(flow.seconds, before.seconds, strict=True)]


def _rate(count: int, seconds: float) -> str:
    rate = count / max(seconds, 1e-3)
    return f"{rate:,.0f}/s" if rate >= 10 or not rate else f"{rate:.2g}/s"  # noqa: PLR2004 - two digits


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 0.1 else f"{1000 * seconds:.3g}"  # noqa: PLR2004 - three digits


def nodes_table(flow: GraphCounts) -> str:
    """Return a table of the nodes: elements in and out, failures, milliseconds per element, awaited elements."""
    rows = [
        (
            cell(name),
            flow.received[n],
            "-" if flow.emitted[n] is None else flow.emitted[n],
            flow.failed[n],
            _ms(flow.seconds[n] / flow.received[n]) if flow.received[n] and flow.seconds[n] else "-",
            flow.waiting[n],
        )
        for n, name in enumerate(flow.names)
    ]
    return table(("node", "in", "out", "failed", "ms each", "waiting"), rows)


def memory_table(sizes: Iterable[tuple[str, int, int]]) -> str:
    """Return a table of what nodes remember over restarts: name, number of fields and bytes of each node's state."""
    return table(
        ("node", "fields", "bytes"), [(cell(name), f"{fields:,}", f"{size:,}") for name, fields, size in sizes]
    )


def as_of(now: datetime) -> str:
    """Return the sentence with the time of a report, which Prefect's page does not renew by itself."""
    return f"As of {now:%Y-%m-%d %H:%M:%S} UTC; reload the page for a newer report."


def replay_ends(ends: Mapping[str, str]) -> str:
    """Return where a replay ends in each topic: the time of its last entry, or the entry's id if that is no time."""
    shown = [
        f"{topic} {id_}" if id_numbers(id_)[0] < _FIRST_TIME else f"{topic} {id_time(id_):%Y-%m-%d %H:%M:%S} UTC"
        for topic, id_ in ends.items()
    ]
    return in_markdown(", ".join(shown))


def position(levels: Iterable[TopicLevel], group: str) -> str:
    """Return the state of a group in one sentence: by how much it is behind, and how many entries are in work.

    It has caught up only if it has read and acknowledged everything.
    """
    found = [one for level in levels for one in level.groups if one.name == group]
    if not found:
        return "It has not read anything yet."
    unread = None if any(one.lag is None for one in found) else sum(one.lag or 0 for one in found)
    behind, pending = max(one.behind for one in found), sum(one.pending for one in found)
    if unread == 0 and not behind:
        return (
            f"**Nothing is unread**; {pending:,} in work or kept."
            if pending
            else "**Caught up**: nothing is unread or in work."
        )
    lag = "an unknown number" if unread is None else f"{unread:,}"
    return f"**Behind by {in_time(behind)}**: {lag} unread, {pending:,} in work or kept."


def retried_table(calls: Collection[Retried], now: float) -> str:
    """Return how many elements wait for another attempt, and a table of those that have waited longest.

    now       in seconds since the epoch
    """
    waiting = "1 element waits" if len(calls) == 1 else f"{len(calls):,} elements wait"
    rows = [
        (
            cell(one.node),
            cell(one.id or "-"),
            f"{one.failed} of {one.most}" if one.most is not None else one.failed,
            in_time(max(0.0, now - one.since)),
            in_time(max(0.0, one.again - now)),
            cell(one.error, _EXCEPTION_WIDTH),
        )
        for one in sorted(calls, key=lambda one: one.since)[:_RETRIED]
    ]
    shown = table(("node", "entry", "attempts failed", "since", "next in", "error"), rows)
    return f"**{waiting} for another attempt.**\n\n{shown}"


def topics_table(levels: Iterable[TopicLevel], group: str) -> str:
    """Return a table of topics: the lag, pending entries and dead letters of one group."""
    rows: list[tuple[object, ...]] = []
    for level in levels:
        if level.unreadable:
            rows.append((cell(level.topic), cell(level.unreadable, _REASON), "-", "-", "-", "-"))
        rows += [
            (
                cell(level.topic + one.remark),
                "unknown" if one.lag is None else one.lag,
                one.behind_by,
                one.pending,
                one.consumers,
                one.dead,
            )
            for one in level.groups
            if one.name == group
        ]
    if not rows:  # a replay has dropped it, or none of its topics exists yet
        return "nothing: there is no such group"
    return table(("topic", "lag", "behind by", "pending", "consumers", "dead letters"), rows)


def result_table(value: Any) -> str:
    """Return a result as Markdown: the head of a frame as a table, a mapping's values, anything else as text."""
    if is_pandas(value, "Series"):
        value = value.to_frame()
    if is_pandas(value, "DataFrame") or _is_in_memory(value):
        head, rows_in_all, columns_in_all = _head(value)
        texts = [[_text(name), *map(_text, head.iloc[:, n])] for n, name in enumerate(head.columns)]
        index = ["", *map(_text, head.index)]
        shown = [index, *_fitting(texts, _LINE - _wide(index))]
        header, *rows = zip(*shown, strict=True)
        lines = table(map(cell, header), [map(cell, row) for row in rows])
        return f"{lines}\n\n{rows_in_all} rows, {columns_in_all} columns"
    if isinstance(value, dict):
        return table(("", "value"), [(cell(key), cell(one)) for key, one in list(value.items())[:_ROWS]])
    return "```\n" + one_line(repr(value), _TEXT).replace("```", "'''") + "\n```"


def _fitting(columns: list[list[str]], room: int) -> list[list[str]]:
    """Return the columns that fit into `room` characters, from both ends as pandas does, and dots for those between."""
    if sum(map(_wide, columns)) <= room:
        return columns
    dots = ["..."] * len(columns[0])
    room -= _wide(dots)
    first, last = 0, len(columns)
    while first < last:
        at = first if first <= len(columns) - last else last - 1
        room -= _wide(columns[at])
        if room < 0 and first:
            break
        first, last = (first + 1, last) if at == first else (first, last - 1)
    return [*columns[:first], dots, *columns[last:]] if first < last else columns


def _wide(column: list[str]) -> int:
    """Return the characters that a column takes at least: those of its longest word, because a browser breaks lines at others."""
    return max(len(word) for text in column for word in re.split(r"[\s-]", text)) + _MARGIN


def _is_in_memory(value: Any) -> bool:
    """Return whether a value is a frame of polars or Arrow, and neither a query nor a stream, which looking at would run."""
    return is_frame(value) and hasattr(value, "slice") and hasattr(value, "shape")


def _head(frame: Any) -> tuple[Any, int, int]:
    """Return the first rows of a frame as a pandas DataFrame, and how many rows and columns there are in all."""
    rows, columns = frame.shape
    if is_pandas(frame, "DataFrame"):
        return frame.head(_ROWS), rows, columns
    from tasks.codec.arrow_frames import read_table  # noqa: PLC0415 - pandas and pyarrow, which most reports do not need
    from tasks.codec.foreign_frames import foreign_frame  # noqa: PLC0415

    return foreign_frame(read_table(frame.slice(0, _ROWS), max_bytes=_HEAD_BYTES)), rows, columns


def letters_table(letters: Iterable[Letter], outcomes: Mapping[Letter, Outcome], *, otherwise: str) -> str:
    """Return dead letters as a table with the outcome of each; `otherwise` where it is unknown."""
    became = {letter: outcomes.get(letter, otherwise) for letter in letters}
    if not became:
        return "No dead letter was chosen."
    counts = ", ".join(f"{n:,} {outcome}" for outcome, n in Counter(became.values()).items())
    rows = [
        (cell(one.id), cell(one.entry_id), cell(one.node), cell(one.exception, _EXCEPTION_WIDTH), one.retries, outcome)
        for one, outcome in list(became.items())[:_LETTERS]
    ]
    more = f"\n\nand {len(became) - _LETTERS:,} more" if len(became) > _LETTERS else ""
    shown = table(("letter", "entry", "node", "exception", "replayed before", "now"), rows)
    return f"{counts}\n\n{shown}{more}"


def cell(value: Any, width: int = _WIDTH) -> str:
    """Return a value as one cell of a Markdown table."""
    return in_markdown(_text(value, width), 10 * width)


def _text(value: Any, width: int = _WIDTH) -> str:
    if isinstance(value, float):
        text = f"{value:,.0f}" if _LARGE <= abs(value) < _HUGE else f"{value:.6g}"
    else:
        text = str(value)
    return shortened(text, width)


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table of prepared cells; `cell` prepares any value."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
