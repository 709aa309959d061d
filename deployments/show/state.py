"""Kept state as a table for the terminal."""

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from tasks.base.plain_text import printable
from tasks.report.levels import short_bytes
from tasks.state.inspection import KeptState

__all__ = ["state_table"]


def state_table(kept: Iterable[KeptState], *, now: float) -> Table:
    """Return what the nodes of groups remember, a row for each node.

    now    Unix time in seconds, for the age of the last cut
    """
    table = Table(show_edge=False, pad_edge=False)
    for name, side in (
        ("group", "left"),
        ("node", "left"),
        ("fields", "right"),
        ("bytes", "right"),
        ("stored", "right"),
    ):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type] - one of both
    for one in kept:
        age = "-" if one.time is None else f"{max(0.0, now - one.time):,.0f} s ago"
        for node in one.nodes:
            cells = (printable(one.group), printable(node.name), f"{node.fields:,}", short_bytes(node.size), age)
            table.add_row(*map(Text, cells))
    return table
