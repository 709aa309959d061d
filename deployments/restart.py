"""`sluice restart`: what runs of a deployment ends in good order, and it runs again."""

import time
from typing import TYPE_CHECKING

from rich.console import Console

from deployments.ledger import Ledger
from deployments.prefect_server import find_server
from tasks.errors import SettingsError, UnavailableError
from tasks.settings import state_dir

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

__all__ = ["end_runs", "restart"]

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

    full = name if "/" in name else f"{name}/main"
    with get_client(sync_client=True) as client:
        deployment = _deployment(client, full)
        for run in end_runs(client, deployment.id, full, timeout):
            console.print(f"{full}: run {run.name} ended as {run.state_name}", highlight=False)
        started = client.create_flow_run_from_deployment(deployment.id)
        taken = _wait_until_taken(client, started.id)
        console.print(f"{full}: run {started.name} {taken}", highlight=False)


def _deployment(client: "SyncPrefectClient", full: str) -> "DeploymentResponse":
    from prefect.exceptions import ObjectNotFound  # noqa: PLC0415

    from deployments.deployed import deployed  # noqa: PLC0415

    try:
        return client.read_deployment_by_name(full)
    except ObjectNotFound as error:
        known = ", ".join(deployed(client)) or "none"
        msg = f"expected the name of a deployment, got {full!r}; there are: {known}; `prefect deploy --all` brings those of prefect.yaml"
        raise SettingsError(msg) from error


def end_runs(client: "SyncPrefectClient", deployment: "UUID", full: str, timeout: float) -> list["FlowRun"]:
    """Cancel the runs of a deployment and return them when they have ended.

    raises    UnavailableError: one has not, within `timeout` seconds
    """
    from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter  # noqa: PLC0415
    from prefect.client.schemas.objects import StateType  # noqa: PLC0415
    from prefect.states import Cancelled, Cancelling  # noqa: PLC0415

    why = "`sluice restart`"
    unended = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING, StateType.SCHEDULED, StateType.PAUSED]
    found = client.read_flow_runs(
        deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment]}}),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": unended}}}),
    )
    ending = [run for run in found if not run.auto_scheduled or run.state_type != StateType.SCHEDULED]
    for run in ending:
        if run.state_type == StateType.RUNNING:
            client.set_flow_run_state(run.id, Cancelling(message=why))
        elif run.state_type != StateType.CANCELLING:  # nothing is in flight yet, and its process ends when it sees this
            client.set_flow_run_state(run.id, Cancelled(message=why), force=True)
    if not ending:
        return []
    them = FlowRunFilter.model_validate({"id": {"any_": [run.id for run in ending]}})
    deadline = time.monotonic() + timeout
    while True:
        runs = client.read_flow_runs(flow_run_filter=them)  # without those that somebody has deleted meanwhile
        left = [run for run in runs if not (run.state and run.state.is_final())]
        if not left:
            return runs
        if time.monotonic() > deadline:
            msg = (
                f"{full}: run {left[0].name} has not ended after {timeout:.0f} s (state {left[0].state_name}), nothing was started; "
                "if its worker is gone, nobody ends it: `prefect flow-run delete` it, or wait for the automation that does"
            )
            raise UnavailableError(msg)
        time.sleep(_POLL)


def _wait_until_taken(client: "SyncPrefectClient", run: "UUID") -> str:
    deadline = time.monotonic() + _BEGIN
    while time.monotonic() < deadline:
        state = client.read_flow_run(run).state
        if state and not (state.is_scheduled() or state.is_pending()):
            return f"is {state.name}"
        time.sleep(_POLL)
    return f"was not begun within {_BEGIN:.0f} s; is there a worker for its pool? `sluice doctor` says"
