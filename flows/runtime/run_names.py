"""Names of flow runs that show what runs and when it began, such as 'quotes 21:30', instead of Prefect's random words."""

import re
from collections.abc import Callable
from datetime import UTC, datetime

from prefect.context import FlowRunContext

__all__ = ["named_after", "run_name"]

_RANDOM = re.compile(r"[a-z]+(-[a-z]+)+")
"""Prefect's own names, such as 'ebony-hamster' (3.9.1)."""


def run_name(of: str, time: datetime | None = None) -> str:
    """Return the name of a run that is due at a time, by default now, in the local zone.

    >>> run_name("quotes", datetime(2026, 1, 1, 21, 30))
    'quotes 21:30'
    """
    return f"{of} {(time or datetime.now(UTC)).astimezone():%H:%M}"


def named_after(flow: str, *, is_outlet: bool = False) -> Callable[[], str]:
    """Return a function for the flow's `flow_run_name`, which Prefect calls at the start of each run.

    A name that was given to the run stays.

    is_outlet   whether a run is named after its group, such as 'movers-replay 21:30'
    """

    def name() -> str:
        context = FlowRunContext.get()
        run = context.flow_run if context else None
        if run is None:
            return run_name(flow)
        if not _RANDOM.fullmatch(run.name):
            return run.name
        of = run.parameters.get("group") if is_outlet else None
        return run_name(of or flow, run.expected_start_time)

    return name
