"""`sluice restart`: what runs of a deployment ends in good order, and it runs again."""

import time
from typing import TYPE_CHECKING

from rich.console import Console

from deployments.ledger import Ledger
from deployments.prefect_server import find_server
from tasks.errors import SettingsError
from tasks.settings import state_dir

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

__all__ = ["restart"]

_POLL = 0.3
_BEGIN = 30.0  # seconds in which a worker takes a run


def restart(console: Console, name: str, *, timeout: float) -> None:
    """Cancel the deployment's runs, wait for their final states, and run it again; if nothing runs, just run it.

    name      a deployment, or a flow: then its deployment `main`
    timeout   seconds to wait at most for the runs to end
    raises    SettingsError: no such deployment; UnavailableError: no server, or a run does not end: nothing was started
    """
    find_server(Ledger(state_dir()))
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - only now, see find_server

    from deployments.ending import end_runs  # noqa: PLC0415

    why = "`sluice restart`"
    full = name if "/" in name else f"{name}/main"
    with get_client(sync_client=True) as client:
        deployment = _deployment(client, full)
        nothing = ", nothing was started"
        _tell_ended(console, full, end_runs(client, deployment.id, full, timeout, why=why, consequence=nothing))
        started = client.create_flow_run_from_deployment(deployment.id)
        taken = _wait_until_taken(client, started.id)
        # A worker may have been about to start one that was cancelled before it began: Prefect lets it (3.8.8).
        _tell_ended(console, full, end_runs(client, deployment.id, full, timeout, why=why, older_than=started))
        console.print(f"{full}: run {started.name} {taken}", highlight=False)


def _tell_ended(console: Console, full: str, runs: "list[FlowRun]") -> None:
    for run in runs:
        console.print(f"{full}: run {run.name} ended as {run.state_name}", highlight=False)


def _deployment(client: "SyncPrefectClient", full: str) -> "DeploymentResponse":
    from prefect.exceptions import ObjectNotFound  # noqa: PLC0415

    from deployments.deployed import deployed  # noqa: PLC0415

    try:
        return client.read_deployment_by_name(full)
    except ObjectNotFound as error:
        known = ", ".join(deployed(client)) or "none"
        msg = f"expected the name of a deployment, got {full!r}; there are: {known}; `prefect deploy --all` brings those of prefect.yaml"
        raise SettingsError(msg) from error


def _wait_until_taken(client: "SyncPrefectClient", run: "UUID") -> str:
    deadline = time.monotonic() + _BEGIN
    while time.monotonic() < deadline:
        state = client.read_flow_run(run).state
        if state and not (state.is_scheduled() or state.is_pending()):
            return f"is {state.name}"
        time.sleep(_POLL)
    return f"was not begun within {_BEGIN:.0f} s; is there a worker for its pool? `sluice doctor` says"
