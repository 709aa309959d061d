"""Entries and levels as tables for the terminal."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from tasks.entry import Entry
from tasks.errors import SluiceError
from tasks.reservoir import TopicLevel

__all__ = ["entry_table", "levels_table"]

_ROWS = 10
_COLUMNS = 8
_WIDTH = 60  # of one value, in characters


def entry_table(topic: str, entry: Entry | SluiceError) -> Table | Text:
    """Return an entry as a table: a DataFrame's rows, a list of mappings' items, or the fields one by one."""
    if not isinstance(entry, Entry):
        return Text(f"{topic}: {entry}", style="red")
    title = f"{topic}  {entry.time.astimezone():%H:%M:%S}  ({entry.id})"
    frames = [(name, value) for name, value in entry.items() if hasattr(value, "columns") and hasattr(value, "itertuples")]
    if frames:
        name, frame = frames[0]
        others = "".join(f"  {field}={_short(value)}" for field, value in entry.items() if field != name)
        return _frame_table(f"{title}{others}", frame)
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("field")
    table.add_column("value", overflow="fold")
    for field, value in entry.items():
        table.add_row(field, _short(value))
    return table


def levels_table(levels: Iterable[TopicLevel]) -> Table:
    """Return what the topics hold and how far their groups have come, a row for each group."""
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("topic")
    table.add_column("entries", justify="right")
    table.add_column("newest")
    table.add_column("group")
    for name in ("consumers", "pending", "lag", "dead"):
        table.add_column(name, justify="right")
    for level in levels:
        first = [level.topic, str(level.length), _age(level.last_id)]
        if not level.groups:
            table.add_row(*first, "-", "", "", "", "")
        for group in level.groups:
            lag = "unknown" if group.lag is None else str(group.lag)
            dead = Text(str(group.dead), style="red" if group.dead else "")
            table.add_row(*first, group.name, str(group.consumers), str(group.pending), lag, dead)
            first = ["", "", ""]
    return table


def _frame_table(title: str, frame: Any) -> Table:
    shown = frame.iloc[:_ROWS, :_COLUMNS]
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    if not isinstance(frame.index, type(frame.reset_index(drop=True).index)):
        table.add_column(str(frame.index.name or ""))
    for column in shown.columns:
        table.add_column(str(column), justify="right" if shown[column].dtype.kind in "iuf" else "left", no_wrap=True)
    for row in shown.itertuples(index=len(table.columns) > shown.shape[1]):
        table.add_row(*map(_short, row))
    more = [f"{len(frame)} rows"] if len(frame) > _ROWS else []
    more += [f"{frame.shape[1]} columns"] if frame.shape[1] > _COLUMNS else []
    if more:
        table.caption = f"of {' and '.join(more)}"
        table.caption_justify = "left"
    return table


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:,.0f}"  # noqa: PLR2004 - where digits matter more
    text = f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value).replace("\n", " ")
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _age(entry_id: str | None) -> str:
    if entry_id is None:
        return "-"
    moment = datetime.fromtimestamp(int(entry_id.partition("-")[0]) / 1000, UTC)
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
