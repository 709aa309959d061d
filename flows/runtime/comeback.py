"""Delays a run whose predecessors failed in a row, longer after each failure.

Prefect's triggers always wait the same few seconds. The number of failures is read from Prefect, which keeps all runs anyway.
"""

import logging
import threading
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext

from flows.runtime.prefect_api import impatient_client
from tasks.base.backoff import doubled

__all__ = ["ended_runs", "failures", "pause_after", "wait_before_beginning"]

_SHORTEST, _LONGEST = 2.0, 60.0  # seconds
# A run that lasted this long was healthy for a minute at least, even if it waited before.
_HEALTHY = _LONGEST + 60.0
_FREE = 1  # failures without a pause: a restart usually repairs the first
_LOOKED_AT = 30  # runs; a failure may leave a cancelled one besides, because two triggers share one slot
_NEVER_BEGUN = (StateType.CANCELLED, StateType.CRASHED)
_ENDED = [StateType.COMPLETED, StateType.CANCELLED, StateType.CRASHED, StateType.FAILED]


def pause_after(failed: int) -> float:
    """Return the seconds to wait after this many failures in a row: none after the first, then 2, 4, 8, ... up to a minute."""
    return doubled(_SHORTEST, failed - _FREE - 1, longest=_LONGEST) if failed > _FREE else 0.0


def ended_runs(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """Return the latest runs of a deployment that have ended, newest first."""
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment]}}),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": _ENDED}}}),
        sort=FlowRunSort.END_TIME_DESC,
        limit=_LOOKED_AT,
    )


def failures(newest_first: Iterable[FlowRun]) -> int:
    """Return how many of the runs failed or crashed in a row since the last one that lasted or was stopped."""
    count = 0
    for run in newest_first:
        if run.start_time is None or (run.state_type in _NEVER_BEGUN and run.start_time == run.end_time):
            # It never began: it was a second run beside another, or its file could not be imported, which works by now.
            continue  # Prefect sets its start to its end (3.9.1)
        if run.state_type not in (StateType.CRASHED, StateType.FAILED):
            break
        count += 1
        if ((run.end_time or run.start_time) - run.start_time).total_seconds() >= _HEALTHY:
            break
    return count


def wait_before_beginning(stop: threading.Event, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
    """Wait if an automation started this run after several failures in a row; at most until `stop` is set."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is None or run.created_by is None or run.created_by.type != "AUTOMATION":
        return  # a run started by hand begins at once
    try:
        with impatient_client() as client:
            ended = ended_runs(client, run.deployment_id)
    except Exception as error:  # noqa: BLE001 - without an answer, the run begins at once
        log.warning("could not read how earlier runs ended (%s)", type(error).__name__)
        return
    if pause := pause_after(count := failures(ended)):
        log.warning("the last %d runs failed soon after their start; this one begins in %.0f s", count, pause)
        stop.wait(pause)
