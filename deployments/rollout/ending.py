"""End the runs of one deployment in good order."""

import time
from collections.abc import Collection
from contextlib import suppress
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from deployments.rollout.deployed import paged
from tasks.errors import UnavailableError

__all__ = ["end_runs", "unended_runs"]

_POLL = 0.3
_UNENDED = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING, StateType.SCHEDULED, StateType.PAUSED]


def end_runs(
    client: SyncPrefectClient,
    deployment: UUID,
    full: str,
    timeout: float,
    *,
    why: str,
    consequence: str = "",
    among: Collection[UUID] | None = None,
    older_than: FlowRun | None = None,
) -> list[FlowRun]:
    """Cancel the runs of a deployment, including runs that start in between, and return them once all have ended.

    Runs that its schedule has planned for later stay scheduled.

    full         the deployment's name, for the error
    timeout      maximum wait in seconds
    why          the message of the runs' states
    consequence  the end of the error's first part, such as ', nothing was started'
    among        only these runs
    older_than   only runs that were created before this one, and by no schedule
    raises       UnavailableError: a run has not ended by then
    """
    deadline = time.monotonic() + timeout
    seen: set[UUID] = set()
    while left := [run for run in unended_runs(client, deployment, older_than) if among is None or run.id in among]:
        seen.update(run.id for run in left)
        if time.monotonic() > deadline:
            msg = (
                f"{full}: run {left[0].name} has not ended after {timeout:.0f} s (state {left[0].state_name}){consequence}; "
                "if its worker is gone, it never ends: `prefect flow-run delete` it, or wait for the automation that does"
            )
            raise UnavailableError(msg)
        for run in left:
            # Not a pending run: its process ignores SIGTERM while Prefect loads the flow, and then sets even a Cancelled
            # run to Running (3.9.1). It will be Running in a moment.
            if run.state_type not in (StateType.PENDING, StateType.CANCELLING):
                with suppress(ObjectNotFound):  # it was deleted in between
                    # The server sets it to Cancelled at once if it has no process.
                    client.set_flow_run_state(run.id, Cancelling(message=why))
        time.sleep(_POLL)
    if not seen:
        return []
    return paged(client.read_flow_runs, flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": sorted(seen)}}))


def unended_runs(client: SyncPrefectClient, deployment: UUID, older_than: FlowRun | None = None) -> list[FlowRun]:
    """Return the runs of a deployment that have not ended, without those that its schedule has planned.

    older_than   only runs that were created before this one, and by no schedule
    """
    criteria = {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": _UNENDED}}}
    found = paged(client.read_flow_runs, flow_run_filter=FlowRunFilter.model_validate(criteria))
    found = [run for run in found if not run.auto_scheduled or run.state_type != StateType.SCHEDULED]
    if older_than is None:
        return found
    made = older_than.created
    return [run for run in found if not run.auto_scheduled and run.created and made and run.created < made]
