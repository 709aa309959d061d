"""Entries and levels as tables for the terminal."""

from collections.abc import Iterable
from datetime import UTC, datetime

import pandas as pd
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from tasks.entry import Entry
from tasks.errors import SluiceError
from tasks.history import short_bytes
from tasks.levels import TopicLevel

__all__ = ["entry_table", "levels_table"]

_ROWS = 10
_SEPARATOR = 3  # characters between two columns
_WIDTH = 60  # of one value, in characters


def entry_table(topic: str, entry: Entry | SluiceError, *, width: int = 80) -> Table | Text:
    """Return an entry as a table at most `width` wide: its first DataFrame's rows, or the fields one by one."""
    if not isinstance(entry, Entry):
        return Text(f"{topic}: {entry}", style="red")
    title = f"{topic}  {entry.time.astimezone():%H:%M:%S}  ({entry.id})"
    frames = [(name, value) for name, value in entry.items() if isinstance(value, pd.DataFrame)]
    if frames:
        name, frame = frames[0]
        others = "".join(f"  {field}={_short(value)}" for field, value in entry.items() if field != name)
        return _frame_table(f"{title}{others}", frame, width)
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
    table.add_column("bytes", justify="right")
    table.add_column("rate", justify="right")
    table.add_column("newest")
    table.add_column("group")
    for name in ("consumers", "pending", "lag", "dead", "spilled"):
        table.add_column(name, justify="right")
    for level in levels:
        rate = "?" if level.rate is None else f"{level.rate:.3g}/s"
        first = [level.topic, str(level.length), short_bytes(level.bytes), rate, _age(level.last_id)]
        if not level.groups:
            table.add_row(*first, "-", "", "", "", "", "")
        for group in level.groups:
            name = f"{group.name} (forgotten)" if group.is_forgotten else group.name
            lag = "?" if group.lag is None else str(group.lag)
            dead, spilled = (Text(str(number), style="red" if number else "") for number in (group.dead, group.spilled))
            table.add_row(*first, name, str(group.consumers), str(group.pending), lag, dead, spilled)
            first = ["", "", "", "", ""]
    return table


def _frame_table(title: str, frame: pd.DataFrame, width: int) -> Table:
    named = not isinstance(frame.index, pd.RangeIndex) and frame.index.name is not None
    shown = frame.head(_ROWS).reset_index() if named else frame.head(_ROWS)
    columns = [[str(name), *map(_short, shown.iloc[:, position])] for position, name in enumerate(shown.columns)]
    chosen = _fitting([max(map(cell_len, column)) for column in columns], width)
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for position in chosen:
        right = shown.iloc[:, position].dtype.kind in "iuf"
        table.add_column(columns[position][0], justify="right" if right else "left", no_wrap=True)
    for row in range(1, len(shown) + 1):
        table.add_row(*(columns[position][row] for position in chosen))
    left_out = [f"{len(frame)} rows"] * (len(frame) > _ROWS) + [f"{len(columns)} columns"] * (
        len(chosen) < len(columns)
    )
    if left_out:
        table.caption = f"of {' and '.join(left_out)}"
        table.caption_justify = "left"
    return table


def _fitting(widths: list[int], room: int) -> list[int]:
    """Return which columns to show: from both ends inwards, since what a pipeline computed stands last."""
    inwards = sorted(range(len(widths)), key=lambda position: min(2 * position, 2 * (len(widths) - 1 - position) + 1))
    chosen: list[int] = []
    for position in inwards:
        room -= widths[position] + _SEPARATOR
        if chosen and room < -_SEPARATOR:
            break
        chosen.append(position)
    return sorted(chosen)


def _short(value: object) -> str:
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
