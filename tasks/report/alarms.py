"""Alarms as a Markdown table, marked in red."""

from collections.abc import Iterable

from tasks.report.pipeline import RED, cell, table
from tasks.reservoir.alarms import Alarm

__all__ = ["alarms_table"]

_TEXT = 500  # characters


def alarms_table(alarms: Iterable[Alarm]) -> str:
    """Return a table of alarms with their remedies."""
    rows = [(f"{RED} {cell(one.message, _TEXT)}", cell(one.remedy, _TEXT)) for one in alarms]
    return table(("problem", "remedy"), rows)
