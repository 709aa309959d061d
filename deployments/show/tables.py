"""Entries, levels and runs as tables that fit the width of the terminal."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from deployments.show.as_json import with_index
from deployments.show.times import clock
from tasks.base.ids import id_time
from tasks.base.plain_text import printable
from tasks.errors import SluiceError
from tasks.group.dead_letters import Letter
from tasks.report.levels import short_bytes
from tasks.reservoir.entry import Entry
from tasks.reservoir.levels import TopicLevel

if TYPE_CHECKING:
    from deployments.rollout.last_run import Deployed

__all__ = ["ago", "entry_table", "groups_table", "letters_table", "levels_table", "runs_table", "topics_table"]

_ROWS = 10
_SEPARATOR = 3  # characters between two columns
_WIDTH = 60  # characters of one value
_LEVELS = (
    "topic",
    "entries",
    "bytes",
    "rate",
    "newest",
    "group",
    "consumers",
    "pending",
    "lag",
    "behind",
    "retrying",
    "dead",
    "spilled",
)
_NUMBERS = frozenset({*_LEVELS, "retries"}) - {"topic", "newest", "group"}
_TOPICS = ("topic", "entries", "bytes", "rate", "newest", "keep", "groups", "dead")
_GROUPS = ("topic", "group", "position", "consumers", "pending", "lag", "dead", "retries", "spilled")
_LETTERS = ("letter", "failed", "entry", "node", "exception", "attempts", "deliveries", "replays")
# The least important columns first.
_EXPENDABLE_OF_LEVELS = ("consumers", "bytes", "rate", "newest", "entries", "spilled", "pending", "behind")
_EXPENDABLE_OF_TOPICS = ("bytes", "rate", "newest", "keep")
_EXPENDABLE_OF_GROUPS = ("consumers", "spilled", "retries", "position", "pending")
_EXPENDABLE_OF_LETTERS = ("deliveries", "replays", "entry", "failed", "attempts")
_FOLDED = 40  # a column of this width is wide enough; longer text is folded
_COLOURS = {"RUNNING": "green", "FAILED": "red", "CRASHED": "red", "CANCELLED": "yellow", "CANCELLING": "yellow"}


def entry_table(topic: str, entry: Entry | SluiceError, *, width: int = 80) -> Group:
    """Return an entry as a table of at most `width` columns: the rows of its first DataFrame, or its fields."""
    if not isinstance(entry, Entry):
        return Group(Text(printable(f"{topic}: {entry}"), style="red"))
    # Not the table's own title and caption, which would be folded to the width of a narrow frame.
    title = f"{topic}  {clock(entry.time)}  ({entry.id})"
    frames = [(name, value) for name, value in entry.items() if isinstance(value, pd.DataFrame)]
    if frames:
        name, frame = frames[0]
        others = "".join(f"  {_short(field)}={_short(value)}" for field, value in entry.items() if field != name)
        return Group(Text(f"{title}{others}", style="italic"), *_frame_table(frame, width))
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("field", overflow="fold")
    table.add_column("value", overflow="fold")
    for field, value in entry.items():
        table.add_row(Text(_short(field)), Text(_short(value)))
    return Group(Text(title, style="italic"), table)


def levels_table(levels: Iterable[TopicLevel], *, width: int = 160) -> Table:
    """Return what the topics hold and how far their groups have come, a row for each group.

    Where there is no room for all columns, the least important ones are left out. The calls that are tried again are shown if there
    are any.
    """
    rows = [row for level in levels for row in _level_rows(level)]
    names = [name for name in _LEVELS if name != "retrying" or any(row[name] not in ("", "0") for row in rows)]
    return _fitted(rows, names, _EXPENDABLE_OF_LEVELS, width)


def topics_table(levels: Iterable[TopicLevel], *, width: int = 160) -> Table:
    """Return what each topic holds, a row each."""
    rows = [
        _topic_cells(level)
        | {
            "keep": str(level.keep or "-"),
            "groups": "unreadable"
            if level.unreadable
            else ", ".join(printable(group.name) for group in level.groups) or "-",
            "dead": str(sum(group.dead for group in level.groups)),
        }
        for level in levels
    ]
    return _fitted(rows, _TOPICS, _EXPENDABLE_OF_TOPICS, width)


def groups_table(groups: Iterable[Mapping[str, Any]], *, width: int = 160) -> Table:
    """Return how far each group has come, a row each."""
    rows = [
        {name: printable(str(group[name])) for name in _GROUPS if name in group}
        | {"group": printable(group["name"]), "lag": "?" if group["lag"] is None else str(group["lag"])}
        for group in groups
    ]
    return _fitted(rows, _GROUPS, _EXPENDABLE_OF_GROUPS, width)


def _fitted(rows: Sequence[Mapping[str, str]], names: Sequence[str], expendable: Sequence[str], width: int) -> Table:
    """Return rows as a table without the columns for which there is no room."""
    table = Table(show_edge=False, pad_edge=False)
    shown = _shown(rows, names, expendable, width)
    for name in shown:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[name], style=_level_style(name, row[name])) for name in shown))
    return table


def _topic_cells(level: TopicLevel) -> dict[str, str]:
    return {
        "topic": printable(level.topic),
        "entries": "?" if level.unreadable else str(level.length),
        "bytes": short_bytes(level.bytes),
        "rate": "?" if level.rate is None else f"{level.rate:.3g}/s",
        "newest": "-" if level.last_id is None else ago(id_time(level.last_id)),
    }


def _level_rows(level: TopicLevel) -> Iterator[dict[str, str]]:
    row = dict.fromkeys(_LEVELS, "") | _topic_cells(level)
    if not level.groups:
        yield row | {"group": "unreadable" if level.unreadable else "-"}
    for group in level.groups:
        yield row | {
            "group": printable(group.name) + group.remark,
            "consumers": str(group.consumers),
            "pending": str(group.pending),
            "lag": "?" if group.lag is None else str(group.lag),
            "behind": group.behind_by,
            "retrying": str(group.retrying),
            "dead": str(group.dead) + (f" (+{group.dead_dropped} dropped)" if group.dead_dropped else ""),
            "spilled": str(group.spilled),
        }
        row = dict.fromkeys(_LEVELS, "")


def _level_style(name: str, text: str) -> str:
    counts = text not in ("", "0")
    if name == "retrying" and counts:
        return "yellow"
    lost = name in ("dead", "spilled") and counts
    return "red" if lost or (name in ("group", "groups") and text == "unreadable") else ""


def letters_table(letters: Iterable[Letter], *, width: int = 160) -> Table:
    """Return dead letters, a row each, without the least important columns if the width does not suffice."""
    rows = [
        {
            "letter": one.id,
            "failed": ago(one.time),
            "entry": printable(one.entry_id),
            "node": printable(one.node),
            "exception": printable(one.exception),
            "attempts": str(one.attempts),
            "deliveries": str(one.deliveries),
            "replays": str(one.retries),
        }
        for one in letters
    ]
    table = Table(show_edge=False, pad_edge=False)
    shown = _shown(rows, _LETTERS, _EXPENDABLE_OF_LETTERS, width)
    for name in shown:
        right = name in ("attempts", "deliveries", "replays")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name == "letter")
    for row in rows:
        table.add_row(*(Text(row[name], style="red" if name == "exception" else "") for name in shown))
    return table


def _shown(
    rows: Iterable[Mapping[str, str]], names: Sequence[str], expendable: Sequence[str], width: int
) -> Sequence[str]:
    """Return the columns that fit the width; long text is folded, so that part of its width suffices."""
    widths = {name: max(cell_len(name), *(min(cell_len(row[name]), _FOLDED) for row in rows), 0) for name in names}
    shown = list(names)
    for name in expendable:
        if sum(widths[each] + _SEPARATOR for each in shown) - _SEPARATOR <= width:
            break
        shown.remove(name)
    return shown


def runs_table(deployments: Iterable["Deployed"]) -> Table:
    """Return the deployments with their last runs."""
    table = Table(show_edge=False, pad_edge=False)
    for column in ("deployment", "schedule", "last run", "since"):
        table.add_column(column, overflow="fold")
    for each in deployments:
        state = Text(printable(each.state) or "never ran", style=_COLOURS.get(each.type, "dim"))
        table.add_row(
            Text(printable(each.name)), each.schedule, state, ago(each.since).removesuffix(" ago") if each.since else ""
        )
    return table


def _frame_table(frame: pd.DataFrame, width: int) -> Iterator[Table | Text]:
    shown = with_index(frame.head(_ROWS))
    columns = [
        [_short(str(name)), *map(_short, shown.iloc[:, position])] for position, name in enumerate(shown.columns)
    ]
    chosen = _fitting([max(map(cell_len, column)) for column in columns], width)
    table = Table(show_edge=False, pad_edge=False)
    for position in chosen:
        right = shown.iloc[:, position].dtype.kind in "iuf"
        table.add_column(Text(columns[position][0]), justify="right" if right else "left", no_wrap=True)
    for row in range(1, len(shown) + 1):
        table.add_row(*(Text(columns[position][row]) for position in chosen))
    left_out = [f"{len(frame)} rows"] * (len(frame) > _ROWS) + [f"{len(columns)} columns"] * (
        len(chosen) < len(columns)
    )
    if columns:
        yield table
    if frame.empty:
        yield Text(f"{len(frame)} rows, {len(columns)} columns", style="dim italic")
    elif left_out:
        yield Text(f"of {' and '.join(left_out)}", style="dim italic")


def _fitting(widths: list[int], room: int) -> list[int]:
    """Return the columns to show, chosen from both ends inwards: computed columns are the last ones."""
    inwards = sorted(range(len(widths)), key=lambda position: min(2 * position, 2 * (len(widths) - 1 - position) + 1))
    chosen: list[int] = []
    for position in inwards:
        room -= widths[position] + _SEPARATOR
        if chosen and room < -_SEPARATOR:
            break
        chosen.append(position)
    return sorted(chosen)


def _short(value: object) -> str:
    match value:
        case float():
            return f"{value:.4g}" if abs(value) < 1e6 else f"{value:,.0f}"  # noqa: PLR2004 - where digits matter more
        case bytes():
            return f"<{len(value)} bytes>"
        case pd.DataFrame():
            return f"<DataFrame, {len(value)} x {len(value.columns)}>"
    text = str(value)
    return printable(text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…")


def ago(then: datetime) -> str:
    """Return the time since a moment as text, such as '5 s ago'."""
    seconds = (datetime.now(UTC) - then).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
