"""`sluice logs`: what the runs of a deployment have logged, from the Prefect server."""

import time
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

from rich.console import Console
from rich.text import Text

from deployments.commands.on_prefect import find_deployment, prefect_client
from deployments.show.terminal import print_aside, without_controls
from deployments.show.times import clock

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, Log

__all__ = ["logs"]

_POLL = 2.0  # seconds
_PAGE = 200  # the server gives no more at once (3.9.1)
_WARNING, _ERROR = 30, 40


def logs(console: Console, name: str, *, n: int, follow: bool = False) -> None:
    """Print the newest `n` lines that the last run of a deployment has logged, oldest first; with `follow`, later ones too.

    name      as `find_deployment` takes it
    raises    SettingsError: no such deployment; UnavailableError: no server answers
    """
    from httpx import HTTPError  # noqa: PLC0415 - with Prefect, see find_server

    with prefect_client() as client:
        full, deployment = find_deployment(client, name)
        shown = _Shown(console, full, _last_run(client, deployment.id))
        if shown.run is None:
            print_aside(f"{full} never ran")
        shown.print(client, n)
        while follow:
            time.sleep(_POLL)
            with suppress(ConnectionError, HTTPError):  # the server may come back
                later = _last_run(client, deployment.id)
                if later and (shown.run is None or later.id != shown.run.id):
                    shown = _Shown(console, full, later)
                shown.print(client, _PAGE)


class _Shown:
    """A run, and those of its lines that were printed."""

    def __init__(self, console: Console, full: str, run: "FlowRun | None") -> None:
        self.run = run
        self._console = console
        self._lines: set[UUID] = set()
        if run:
            print_aside(f"{full}: run {run.name}, {run.state_name or 'unknown'}")

    def print(self, client: "SyncPrefectClient", n: int) -> None:
        """Print the newest `n` lines, except those that were printed."""
        for line in _newest(client, self.run.id, n) if self.run else ():
            if line.id not in self._lines:
                self._lines.add(line.id)
                _print(self._console, line)


def _last_run(client: "SyncPrefectClient", deployment: UUID) -> "FlowRun | None":
    from prefect.client.schemas.filters import FlowRunFilter  # noqa: PLC0415 - only now, see find_server
    from prefect.client.schemas.sorting import FlowRunSort  # noqa: PLC0415

    from deployments.rollout.runs import BEGUN  # noqa: PLC0415

    begun = FlowRunFilter.model_validate(
        {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": sorted(BEGUN)}}}
    )
    found = client.read_flow_runs(flow_run_filter=begun, limit=1, sort=FlowRunSort.START_TIME_DESC)
    return found[0] if found else None


def _newest(client: "SyncPrefectClient", run: UUID, n: int) -> "list[Log]":
    from prefect.client.schemas.filters import LogFilter  # noqa: PLC0415 - only now, see find_server
    from prefect.client.schemas.sorting import LogSort  # noqa: PLC0415

    of_run = LogFilter.model_validate({"flow_run_id": {"any_": [run]}})
    found: list[Log] = []
    while len(found) < n:
        page = client.read_logs(
            of_run, limit=min(_PAGE, n - len(found)), offset=len(found), sort=LogSort.TIMESTAMP_DESC
        )
        found += page
        if not page:
            break
    return found[::-1]


def _print(console: Console, line: "Log") -> None:
    style = "red" if line.level >= _ERROR else "yellow" if line.level >= _WARNING else ""
    console.print(
        Text.assemble((f"{clock(line.timestamp)} ", "dim"), (without_controls(line.message), style)), soft_wrap=True
    )
