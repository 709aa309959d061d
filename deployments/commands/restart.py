"""`sluice stop` and `sluice restart`: end the runs of a deployment in good order, and start a new one."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from deployments.commands.on_prefect import find_deployment, prefect_client
from deployments.rollout.blueprint import Blueprint, Deployment, EntrypointCheck
from tasks.base.plain_text import one_line
from tasks.errors import PipelineError, SettingsError

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

__all__ = ["restart", "stop"]

_POLL = 0.3
_BEGIN = 30.0  # seconds for a worker to start a run
_SETTLED = 2.0  # seconds after which a run that cannot start has failed


def stop(console: Console, name: str, *, timeout: float) -> None:
    """Cancel the deployment's runs and wait for their final states.

    name      as `find_deployment` takes it
    timeout   seconds to wait at most for the runs to end
    raises    SettingsError: no such deployment; UnavailableError: no server, or a run does not end
    """
    with prefect_client() as client:
        from deployments.rollout.deployed import schedule_of  # noqa: PLC0415 - only now, see find_server
        from deployments.rollout.ending import end_runs  # noqa: PLC0415

        full, deployment = find_deployment(client, name)
        ended = end_runs(client, deployment.id, full, timeout, why="`sluice stop`")
        _print_ended(console, full, ended)
        if not ended:
            console.print(f"{full}: nothing runs", highlight=False)
        if schedule_of(deployment) == "on":
            pause = (
                f"`prefect deployment schedule pause {full} ID`, its id from `prefect deployment schedule ls {full}`"
            )
            console.print(f"{full}: its schedule brings the next run; to keep it stopped: {pause}", highlight=False)


def restart(console: Console, name: str, *, timeout: float, params: Sequence[str] = ()) -> None:
    """Cancel the deployment's runs, wait for their final states, and start a new run.

    Where the deployment has several runs (its concurrency limit), each is replaced before the next one is cancelled.

    name      as `find_deployment` takes it
    timeout   seconds to wait at most for the runs to end
    params    parameters of the new run, as name=value; all others are the deployment's
    raises    SettingsError: no such deployment or parameter, or its file cannot be imported: nothing was stopped; UnavailableError: no
              server, or a run does not end: nothing was started; PipelineError: the new run failed at its beginning
    """
    with prefect_client() as client:
        full, deployment = find_deployment(client, name)
        parameters = _parameters(params, deployment, full)
        _check_file(deployment, full)
        for among in _turns(client, deployment):
            _replace(console, client, deployment, full, parameters, among=among, timeout=timeout)


def _turns(client: "SyncPrefectClient", deployment: "DeploymentResponse") -> "Iterator[list[UUID] | None]":
    """Yield the runs to replace by one: all at once, or one after the other where the deployment has several."""
    from deployments.rollout.deployed import replicas_of  # noqa: PLC0415 - only now, see find_server
    from deployments.rollout.ending import unended_runs  # noqa: PLC0415

    replicas = replicas_of(deployment)
    if replicas == 1:
        yield None
        return
    old = [[run.id] for run in unended_runs(client, deployment.id)]
    yield from old[:replicas] + [[]] * (replicas - len(old))


def _replace(
    console: Console,
    client: "SyncPrefectClient",
    deployment: "DeploymentResponse",
    full: str,
    parameters: dict[str, Any],
    *,
    among: "list[UUID] | None",
    timeout: float,
) -> None:
    """End runs, all if `among` is None, and start one."""
    from deployments.rollout.ending import end_runs  # noqa: PLC0415 - only now, see find_server

    why = "`sluice restart`"
    nothing = ", nothing was started"
    _print_ended(
        console, full, end_runs(client, deployment.id, full, timeout, why=why, consequence=nothing, among=among)
    )
    from flows.runtime.run_names import run_name  # noqa: PLC0415 - as above

    # A deployment of an older version is called `main`; its flow names the run then.
    name = None if deployment.name == "main" else run_name(deployment.name)
    started = client.create_flow_run_from_deployment(deployment.id, parameters=parameters, name=name)
    begun = _begun(client, started.id)
    state = begun.state if begun else None
    if among is None:
        # A worker may still start a run that was cancelled while it was pending: Prefect permits it (3.9.1).
        _print_ended(console, full, end_runs(client, deployment.id, full, timeout, why=why, older_than=started))
    if begun is None or state is None:
        late = f"was not begun within {_BEGIN:.0f} s; is there a worker for its pool? run `sluice doctor`"
        console.print(f"{full}: run {started.name} {late}", highlight=False)
    elif state.is_running() or state.is_completed():
        console.print(f"{full}: run {begun.name} is {state.name}", highlight=False)
    else:
        reason = " ".join(one_line(state.message or "no reason was given").split()).rstrip(".")
        msg = f"{full}: run {begun.name} is {state.name}: {reason}; look into its log: `prefect flow-run logs {started.id}`, or the Prefect UI"
        raise PipelineError(msg)


def _print_ended(console: Console, full: str, runs: "list[FlowRun]") -> None:
    for run in runs:
        console.print(f"{full}: run {run.name} ended as {run.state_name}", highlight=False)


def _parameters(params: Sequence[str], deployment: "DeploymentResponse", full: str) -> dict[str, Any]:
    """Parse parameters given as name=value; a value that is no JSON is text.

    raises    SettingsError: one is not name=value, or the deployment has no such parameter
    """
    known = sorted((deployment.parameter_openapi_schema or {}).get("properties", {}))
    found = {}
    for given in params:
        name, equals, value = given.partition("=")
        if not equals or name not in known:
            msg = f"{full}: expected --param name=value, the name one of {', '.join(known)}, got {name!r}; nothing was stopped"
            raise SettingsError(msg)
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _check_file(deployment: "DeploymentResponse", full: str) -> None:
    """Import the deployment's flow as its next run will, if its files are on this machine.

    raises    SettingsError: the import fails
    """
    steps = [step for each in deployment.pull_steps or [] for step in each.items()]
    folders = [given.get("directory") for step, given in steps if step.endswith(".set_working_directory")]
    folder = Path(folders[-1] or "") if folders else None
    if folder is None or not folder.is_dir() or not deployment.entrypoint:
        return  # on another machine, or in an image
    blueprint = Blueprint(
        folder / "prefect.yaml",
        (Deployment(deployment.name, deployment.entrypoint, "", frozenset(), frozenset(), None),),
    )
    try:
        _, errors = EntrypointCheck(blueprint, env=os.environ).found()
    except SettingsError as error:
        msg = f"{full} may not begin again, so nothing was stopped: {error}"
        raise SettingsError(msg) from error
    if errors:
        msg = f"{full} cannot be imported, so nothing was stopped: {'; '.join(errors)}; mend it in {folder}, then restart again"
        raise SettingsError(msg)


def _begun(client: "SyncPrefectClient", run: "UUID") -> "FlowRun | None":
    """Return the run once it has started and kept running for a moment; None if no worker starts it in time."""
    deadline = time.monotonic() + _BEGIN
    settled = None
    while time.monotonic() < deadline or settled:
        found = client.read_flow_run(run)
        if found.state and not (found.state.is_scheduled() or found.state.is_pending()):
            settled = settled or time.monotonic() + _SETTLED
            if not found.state.is_running() or time.monotonic() > settled:
                return found
        time.sleep(_POLL)
    return None
