"""Flow runs as the local stack sees them: left over, started, followed, cancelled."""

import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

from httpx import HTTPStatusError, codes
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling

from deployments.blueprint import Blueprint
from deployments.prefect_server import POOL

__all__ = [
    "ABANDONED",
    "cancel",
    "discard_late",
    "ids",
    "last_runs",
    "of_pool",
    "start",
    "sweep",
    "to_start",
    "workers_online",
]

ALIVE = frozenset({StateType.RUNNING, StateType.PENDING, StateType.CANCELLING})
BEGUN = frozenset(StateType) - {StateType.SCHEDULED}
# A state of the type Crashed, under another name than the one the outlets' triggers wait for: who sweeps up starts
# the outlets itself, and a run that every trigger starts besides would only be cancelled again.
ABANDONED = "Abandoned"
_STOPPING = "`sluice up` is stopping."
_PAGE = 200  # the server gives no more at once (3.8.8) ...
_BULK = 50  # ... and deletes no more at once


def of_pool(
    client: SyncPrefectClient, states: Collection[StateType], *, due_before: datetime | None = None
) -> list[FlowRun]:
    """Return the runs of the pool in one of `states`."""
    criteria: dict = {"state": {"type": {"any_": sorted(states)}}}
    if due_before:
        criteria["expected_start_time"] = {"before_": due_before}
    flow_runs: list[FlowRun] = []
    while True:
        page = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(criteria),
            work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}}),
            limit=_PAGE,
            offset=len(flow_runs),
        )
        flow_runs += page
        if len(page) < _PAGE:
            return flow_runs


def sweep(
    client: SyncPrefectClient,
    *,
    alive: Collection[UUID],
    among: Collection[UUID] | None = None,
    state: State | None = None,
) -> int:
    """Give the runs that no process stands behind a final state, which also frees their slots; return how many.

    alive     the runs that have a process
    among     the runs to look at; None: all of the pool
    state     the final state; default: crashed
    """
    gone = [run for run in of_pool(client, ALIVE) if run.id not in alive and (among is None or run.id in among)]
    for run in gone:
        crashed = State(type=StateType.CRASHED, name=ABANDONED, message="Its process is gone, and what ran it.")
        client.set_flow_run_state(run.id, state or crashed, force=True)
    return len(gone)


def discard_late(client: SyncPrefectClient, blueprint: Blueprint) -> int:
    """Delete the scheduled runs of inlets whose time passed while nothing ran; return how many.

    Each would start a process (2 s of CPU), only to find that its window is over.
    """
    ours = ids(client, (each.full_name for each in blueprint.deployments if each.beats)).values()
    late = of_pool(client, {StateType.SCHEDULED}, due_before=datetime.now(UTC) - timedelta(seconds=5))
    old = [str(run.id) for run in late if run.deployment_id in ours and run.auto_scheduled]
    for first in range(0, len(old), _BULK):
        body = {"flow_runs": {"id": {"any_": old[first : first + _BULK]}}}
        client.request("POST", "/flow_runs/bulk_delete", json=body)  # type: ignore[arg-type] # 3.8.8: no method for it
    return len(old)


def to_start(client: SyncPrefectClient, blueprint: Blueprint) -> list[str]:
    """Return the deployments that ought to have a run and have none, in the order of `prefect.yaml`.

    Outlets: if none runs and none is coming. Inlets: if none runs, so that nobody waits for their schedule, unless that
    is paused.
    """
    running = {run.deployment_id for run in of_pool(client, ALIVE)}
    coming = running | {run.deployment_id for run in of_pool(client, {StateType.SCHEDULED})}
    names = []
    for declared in blueprint.deployments:
        if not (declared.stays_up or declared.beats):
            continue
        deployment = client.read_deployment_by_name(declared.full_name)
        paused = deployment.paused or (declared.beats and not any(each.active for each in deployment.schedules))
        if not paused and deployment.id not in (running if declared.beats else coming):
            names.append(declared.full_name)
    return names


def start(client: SyncPrefectClient, name: str) -> None:
    """Start a deployment, as `prefect deployment run` does."""
    client.create_flow_run_from_deployment(client.read_deployment_by_name(name).id)


def cancel(
    client: SyncPrefectClient,
    among: Callable[[], Collection[UUID]] | None,
    *,
    kill: Callable[[Collection[UUID]], None],
    timeout: float,
) -> int:
    """Cancel the pool's runs and wait for their final states; return how many have not got there.

    among     gives the runs that may be cancelled; None: all of the pool
    kill      ends the processes of some runs at once
    timeout   seconds to wait at most
    """
    deadline = time.monotonic() + timeout
    asked: set[UUID] = set()
    while True:
        ours = among() if among else None
        alive = [run for run in of_pool(client, ALIVE) if ours is None or run.id in ours]  # new ones too
        # A process that gets its SIGTERM while Prefect loads the flow is deaf to it, and killed after 30 s (3.8.8).
        # Nothing is in flight there yet.
        starting = [run.id for run in alive if run.state_type == StateType.PENDING]
        for run_id in starting:
            client.set_flow_run_state(run_id, Cancelled(message=_STOPPING), force=True)
        kill(starting)
        for run in alive:
            if run.state_type == StateType.RUNNING and run.id not in asked:
                client.set_flow_run_state(run.id, Cancelling(message=_STOPPING))
                asked.add(run.id)
        left = len(alive) - len(starting)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.3)


def last_runs(client: SyncPrefectClient) -> list[tuple[str, str, FlowRun | None]]:
    """Return the pool's deployments: name, schedule in a word, and the run that began last."""
    pool = WorkPoolFilter.model_validate({"name": {"any_": [POOL]}})
    deployments = client.read_deployments(work_pool_filter=pool)
    of_them = FlowFilter.model_validate({"id": {"any_": sorted({each.flow_id for each in deployments})}})
    flows = {flow.id: flow.name for flow in client.read_flows(flow_filter=of_them)}
    found = []
    for deployment in deployments:
        begun = FlowRunFilter.model_validate(
            {"deployment_id": {"any_": [deployment.id]}, "state": {"type": {"any_": sorted(BEGUN)}}}
        )
        newest = client.read_flow_runs(flow_run_filter=begun, limit=1, sort="START_TIME_DESC")  # type: ignore[arg-type]
        active = [schedule for schedule in deployment.schedules if schedule.active and not deployment.paused]
        word = "on" if active else "paused" if deployment.schedules else "-"
        name = f"{flows[deployment.flow_id]}/{deployment.name}"
        found.append((name, word, newest[0] if newest else None))
    return sorted(found, key=lambda each: each[0])


def workers_online(client: SyncPrefectClient) -> list[str]:
    """Return the names of the pool's workers that are there."""
    try:
        return [each.name for each in client.read_workers_for_work_pool(POOL) if each.status == "ONLINE"]
    except HTTPStatusError as error:
        if error.response.status_code == codes.NOT_FOUND:  # no pool; not ObjectNotFound, as elsewhere (3.8.8)
            return []
        raise


def ids(client: SyncPrefectClient, names: Iterable[str]) -> dict[str, UUID]:
    """Return the ids of those of the deployments that are on the server."""
    found = {}
    for name in names:
        with suppress(ObjectNotFound):
            found[name] = client.read_deployment_by_name(name).id
    return found
