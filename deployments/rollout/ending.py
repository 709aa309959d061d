"""The runs of one deployment, ended in good order."""

import time
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
    older_than: FlowRun | None = None,
) -> list[FlowRun]:
    """Cancel the runs of a deployment, also those that come meanwhile, and return them when all have ended.

    What its schedule will bring stays scheduled.

    full         the deployment's name, for what is raised
    timeout      seconds to wait at most
    why          what the runs' states say about it
    consequence  what is said if one does not, such as ', nothing was started'
    older_than   only those that were made before this one, and by no schedule
    raises       UnavailableError: one has not ended by then
    """
    deadline = time.monotonic() + timeout
    seen: set[UUID] = set()
    while left := unended_runs(client, deployment, older_than):
        seen.update(run.id for run in left)
        if time.monotonic() > deadline:
            msg = (
                f"{full}: run {left[0].name} has not ended after {timeout:.0f} s (state {left[0].state_name}){consequence}; "
                "if its worker is gone, nobody ends it: `prefect flow-run delete` it, or wait for the automation that does"
            )
            raise UnavailableError(msg)
        for run in left:
            # Not a pending one, whose process is starting: that is deaf to a SIGTERM while Prefect loads its flow, and
            # makes a run that is Cancelled Running all the same (3.9.1). It will be Running in a moment.
            if run.state_type not in (StateType.PENDING, StateType.CANCELLING):
                with suppress(ObjectNotFound):  # somebody has deleted it meanwhile
                    # The server makes it Cancelled at once where there is no process.
                    client.set_flow_run_state(run.id, Cancelling(message=why))
        time.sleep(_POLL)
    if not seen:
        return []
    return paged(client.read_flow_runs, flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": sorted(seen)}}))


def unended_runs(client: SyncPrefectClient, deployment: UUID, older_than: FlowRun | None = None) -> list[FlowRun]:
    """Return the runs of a deployment that have not ended, but not those that its schedule will bring.

    older_than   only those that were made before this one, and by no schedule
    """
    criteria = {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": _UNENDED}}}
    found = paged(client.read_flow_runs, flow_run_filter=FlowRunFilter.model_validate(criteria))
    found = [run for run in found if not run.auto_scheduled or run.state_type != StateType.SCHEDULED]
    if older_than is None:
        return found
    made = older_than.created
    return [run for run in found if not run.auto_scheduled and run.created and made and run.created < made]
