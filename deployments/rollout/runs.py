"""Flow runs of the local pool: find them, and start the missing ones."""

from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

from httpx import HTTPStatusError, codes
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from deployments.rollout.blueprint import Blueprint
from deployments.rollout.deployed import deployed, of_blueprint, paged, replicas_of, schedule_of
from deployments.servers.prefect_server import POOL
from flows.runtime.custom_parameters import run_again

__all__ = ["ALIVE", "last_runs", "of_pool", "start_first", "to_start", "workers_online"]

ALIVE = frozenset({StateType.RUNNING, StateType.PENDING, StateType.CANCELLING})
BEGUN = frozenset(StateType) - {StateType.SCHEDULED}


def of_pool(
    client: SyncPrefectClient,
    states: Collection[StateType],
    *,
    due_before: datetime | None = None,
    or_changed_after: datetime | None = None,
) -> list[FlowRun]:
    """Return the runs of the pool in one of `states`.

    due_before         only runs that were due before this time
    or_changed_after   in addition, all runs that have begun or ended since this time
    """
    criteria: dict[str, Any] = {"state": {"type": {"any_": sorted(states)}}}
    if due_before:
        criteria["expected_start_time"] = {"before_": due_before}
    if or_changed_after:
        since = {"after_": or_changed_after}
        criteria |= {"operator": "or_", "start_time": since, "end_time": since}
    return paged(
        client.read_flow_runs,
        flow_run_filter=FlowRunFilter.model_validate(criteria),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}}),
    )


def to_start(client: SyncPrefectClient, blueprint: Blueprint) -> list[str]:
    """Return the deployments that need runs which they do not have, in the order of `prefect.yaml`, one name for each run.

    An outlet needs as many as its concurrency limit admits, active or scheduled. An inlet needs one if no run is active and its
    schedule is not paused, so that it starts before its schedule's next time.
    """
    wanted = [each for each in of_blueprint(client, blueprint) if each[0].stays_up or each[0].beats]
    of_them = {"any_": [deployment.id for _, deployment in wanted]}

    def having(*states: StateType) -> Counter[UUID | None]:
        them = FlowRunFilter.model_validate({"deployment_id": of_them, "state": {"type": {"any_": sorted(states)}}})
        return Counter(run.deployment_id for run in paged(client.read_flow_runs, flow_run_filter=them))

    running, coming = having(*ALIVE), having(StateType.SCHEDULED)
    names = []
    for declared, deployment in wanted:
        if declared.stays_up and not deployment.paused:
            missing = replicas_of(deployment) - running[deployment.id] - coming[deployment.id]
            names += [declared.full_name] * missing
        if declared.beats and schedule_of(deployment) == "on" and deployment.id not in running:
            names.append(declared.full_name)
    return names


def start_first(client: SyncPrefectClient, waiting: list[str]) -> None:
    """Start the first of the deployments and remove it from the list; after a crash, keep its custom parameters.

    It stays in the list if the server does not answer, and is skipped if it was deleted.
    """
    with suppress(ObjectNotFound):
        run_again(client, client.read_deployment_by_name(waiting[0]).model_dump(mode="json"))
    del waiting[0]


def last_runs(client: SyncPrefectClient) -> list[tuple[str, str, FlowRun | None]]:
    """Return the pool's deployments: name, state of the schedule, and the run that started last."""
    found = []
    for name, deployment in deployed(client).items():
        if deployment.work_pool_name != POOL:
            continue
        begun = FlowRunFilter.model_validate(
            {"deployment_id": {"any_": [deployment.id]}, "state": {"type": {"any_": sorted(BEGUN)}}}
        )
        newest = client.read_flow_runs(flow_run_filter=begun, limit=1, sort=FlowRunSort.START_TIME_DESC)
        found.append((name, schedule_of(deployment), newest[0] if newest else None))
    return found


def workers_online(client: SyncPrefectClient) -> list[str]:
    """Return the names of the pool's workers that are online."""
    try:
        return [each.name for each in client.read_workers_for_work_pool(POOL) if each.status == "ONLINE"]
    except HTTPStatusError as error:
        if error.response.status_code == codes.NOT_FOUND:  # no pool; other calls raise ObjectNotFound (3.9.1)
            return []
        raise
