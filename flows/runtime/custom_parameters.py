"""Carries a run's custom parameters, those that differ from its deployment's, over to the run that replaces it after a crash.

Prefect stores only the whole set of a run's parameters, and its triggers start the replacing run with the deployment's. A run
therefore notes at its start, as a label, which of its parameters differ from the deployment's at that time. A replacing run takes
those over, and all others from the deployment as of then. The run itself does so, not a template of the trigger: Prefect's
server refuses a run with a parameter that the flow no longer takes (3.9.1), and then nothing would replace the crashed run.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from httpx import HTTPStatusError, codes
from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext

from flows.runtime.prefect_api import impatient_client, when_not_busy
from flows.runtime.shared_poll import scheduled_by

__all__ = ["LABEL", "custom_of", "differing", "lasting_parameters", "predecessor", "run_again"]

LABEL = "sluice.custom-parameters"
_PAGE, _MOST = 50, 200  # runs to look back at; those whose file cannot be imported crash every few seconds
_AUTOMATIONS_TAKE = timedelta(minutes=5)  # at most, from a crash to the replacing run
_SKEW = timedelta(minutes=1)  # between the clocks of a worker, which dates a crash, and of Prefect's server
_FAILED = (StateType.CRASHED, StateType.FAILED)


def differing(parameters: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that differ from `base`; those for which `base` has a template count as equal."""
    plain = {name: json.dumps(value, sort_keys=True, default=str) for name, value in base.items()}
    return {
        name: value
        for name, value in parameters.items()
        if name not in plain
        or ('"__prefect_kind"' not in plain[name] and json.dumps(value, sort_keys=True, default=str) != plain[name])
    }


def custom_of(run: FlowRun, others: Iterable[FlowRun], deployment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the custom parameters of a run.

    others       runs of the same deployment, in any order
    deployment   the deployment, as Prefect's API returns it now

    For a run that ended before it could note them: those that differ from the deployment's, unless it was deployed again since
    the run was created. A run that an automation started has those of the run that it replaces. A scheduled run has those of its
    schedule, while the schedule exists.
    """
    others = list(others)
    while LABEL not in run.labels and _is_of_automation(run):
        before = predecessor(run, others)
        if before is None or before.id == run.id:
            return {}
        run = before
    if LABEL in run.labels:
        return json.loads(str(run.labels[LABEL]))
    if run.auto_scheduled:
        is_current = run.parameters in [parameters for _, parameters in scheduled_by(deployment)]
    else:
        is_current = run.created is not None and datetime.fromisoformat(deployment["updated"]) <= run.created
    return differing(run.parameters, deployment["parameters"]) if is_current else {}


def predecessor(run: FlowRun, others: Iterable[FlowRun]) -> FlowRun | None:
    """Return the crashed or failed run that `run`, which an automation started, replaces; None if there is none.

    Each run replaces the last one that ended before it was created and that no earlier run replaces, so that several runs with
    different parameters that crash together are all replaced. A run that never began, such as a second one for the same crash,
    replaces none.
    """
    everyone = {each.id: each for each in [*others, run]}.values()
    crashed = {each.id: each.end_time for each in everyone if each.state_type in _FAILED and each.end_time}
    made = [(each.created, each.id) for each in everyone if _is_of_automation(each) and each.created]
    never_began = {each.id for each in everyone if _never_began(each)} - {run.id}
    for created, id_ in sorted(made):
        if id_ in never_began:
            continue
        before = [(end, one) for one, end in crashed.items() if created - _AUTOMATIONS_TAKE < end <= created]
        after = [(end, one) for one, end in crashed.items() if created < end < created + _SKEW and one != id_]
        found = max(before)[1] if before else min(after)[1] if after else None
        if id_ == run.id:
            return next((each for each in everyone if each.id == found), None)
        crashed.pop(found, None)  # type: ignore[arg-type] # None is no key
    return None


def run_again(
    client: SyncPrefectClient, deployment: Mapping[str, Any], *, idempotency_key: str | None = None
) -> FlowRun:
    """Run a deployment, with the custom parameters of its last run if that crashed or failed.

    raises    prefect.exceptions.ObjectNotFound; httpx.HTTPError
    """
    id_ = UUID(str(deployment["id"]))
    recent = _recent(client, id_)
    ended = [run for run in recent if run.end_time and not _was_refused(run)]
    last = max(ended, key=lambda run: run.end_time or datetime.min.replace(tzinfo=UTC), default=None)
    custom = custom_of(last, recent, deployment) if last and last.state_type in _FAILED else {}
    # A deployment that was not created from its flow may have an empty schema.
    if known := (deployment.get("parameter_openapi_schema") or {}).get("properties"):
        custom = {name: value for name, value in custom.items() if name in known}
    try:
        return client.create_flow_run_from_deployment(id_, parameters=custom, idempotency_key=idempotency_key)
    except HTTPStatusError as error:
        if not custom or error.response.status_code != codes.CONFLICT:
            raise
        # A value that the deployment no longer accepts.
        return client.create_flow_run_from_deployment(id_, idempotency_key=idempotency_key)


def lasting_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters for the flow run of this call: `parameters`, and the custom ones of the run that it replaces.

    Notes which of them are custom, for the run that may replace this one. If Prefect's server does not answer, returns
    `parameters`.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    # A scheduled run needs no note: its schedule has its parameters.
    if context is None or context.flow is None or run is None or run.deployment_id is None or run.auto_scheduled:
        return parameters
    log = get_run_logger()
    try:
        with impatient_client() as client:
            read = partial(client.request, "GET", "/deployments/{id}", path_params={"id": run.deployment_id})
            deployment = when_not_busy(read).json()
            if _is_of_automation(run):
                recent = when_not_busy(partial(_recent, client, run.deployment_id))
                custom, parameters = _taken_over(custom_of(run, recent, deployment), parameters, context)
                if custom:
                    when_not_busy(partial(client.update_flow_run, run.id, parameters=run.parameters))
            else:
                custom = differing(run.parameters, deployment["parameters"])
            if custom:
                labels: dict[str, bool | int | float | str] = {LABEL: json.dumps(custom, default=str)}
                when_not_busy(partial(client.update_flow_run_labels, run.id, labels))
    except Exception as error:  # noqa: BLE001 - the note must not fail the run
        log.warning(
            "Prefect's server does not answer (%s): if this run crashes, the replacing run may not get its custom parameters",
            getattr(getattr(error, "response", None), "status_code", type(error).__name__),
        )
    return parameters


def _taken_over(
    custom: dict[str, Any], parameters: dict[str, Any], context: FlowRunContext
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the custom parameters that the flow accepts, and all its parameters, validated, with them."""
    flow, run = context.flow, context.flow_run
    assert flow is not None
    assert run is not None
    log = get_run_logger()
    taken = {name: value for name, value in custom.items() if name in flow.parameters.properties}
    if gone := sorted(set(custom) - set(taken)):
        log.warning(
            "the run that crashed had custom parameters that %s no longer takes: %s", flow.name, ", ".join(gone)
        )
    if not taken:
        return {}, parameters
    try:
        validated = flow.validate_parameters({**run.parameters, **taken})
    except Exception as error:  # noqa: BLE001 - a parameter's type may raise anything
        log.warning(
            "the run that crashed had values for %s that are no longer valid for %s (%s); this run has its deployment's",
            ", ".join(sorted(taken)),
            flow.name,
            type(error).__name__,
        )
        return {}, parameters
    run.parameters = {**run.parameters, **taken}
    return taken, {**parameters, **validated}


def _recent(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """Return the deployment's latest runs that have begun or were due."""
    due = {"expected_start_time": {"before_": datetime.now(UTC)}}
    found: list[FlowRun] = []
    while len(found) < _MOST:
        page = client.read_flow_runs(
            deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment]}}),
            flow_run_filter=FlowRunFilter.model_validate(due),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=_PAGE,
            offset=len(found),
        )
        found += page
        if len(page) < _PAGE or not all(_is_of_automation(run) and _never_began(run) for run in page):
            break
    return found


def _is_of_automation(run: FlowRun) -> bool:
    return run.created_by is not None and run.created_by.type == "AUTOMATION"


def _never_began(run: FlowRun) -> bool:
    """Return whether a run ended without having begun: Prefect sets its start to its end (3.9.1)."""
    return run.end_time is not None and (run.start_time is None or run.start_time == run.end_time)


def _was_refused(run: FlowRun) -> bool:
    """Return whether a run was cancelled before it began, because another one was running."""
    return run.state_type == StateType.CANCELLED and _never_began(run)
