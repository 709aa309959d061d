"""Alarms in a report: a red box for each, and a table with their remedies."""

from collections.abc import Sequence

from tasks.base.plain_text import in_mermaid
from tasks.report.pipeline import BAD, cell, table
from tasks.reservoir.alarms import Alarm

__all__ = ["alarms_shown"]

_TEXT, _BOX = 500, 120  # characters
_BOXES = 6


def alarms_shown(alarms: Sequence[Alarm]) -> str:
    """Return the alarms as Markdown. The boxes are drawn by Mermaid, because Prefect's UI shows text in no colour (3.9.1)."""
    boxes = [f'  a{n}["{in_mermaid(one.message, _BOX)}"]' for n, one in enumerate(alarms[:_BOXES])]
    names = ",".join(f"a{n}" for n in range(len(boxes)))
    rows = [(cell(one.message, _TEXT), cell(one.remedy, _TEXT)) for one in alarms]
    drawn = "\n".join(["```mermaid", "flowchart LR", *boxes, f"  {BAD}", f"  class {names} bad", "```"])
    return f"{drawn}\n\n{table(('problem', 'remedy'), rows)}"
