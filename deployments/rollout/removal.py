"""Removes deployments from a Prefect server, with their schedules, automations and, on request, the history of their runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import Automation
from prefect.exceptions import ObjectNotFound

from deployments.rollout.deployed import deployed, paged
from deployments.rollout.ending import end_runs, unended_runs
from deployments.rollout.pool_ending import delete_runs
from deployments.rollout.uses import Uses, uses_of
from deployments.servers.old_names import new_name

__all__ = ["Removable", "find_removable", "halt", "remove"]

_AT_ONCE = 50  # runs per request for artifacts


@dataclass(frozen=True, slots=True)
class Removable:
    """One deployment and what belongs to it on the server.

    automations  those that only start, pause or resume this deployment
    referring    names of automations that also do other things: they stay, and fail at this deployment
    running      names of runs that have not ended
    """

    name: str
    deployment: DeploymentResponse
    uses: Uses
    automations: tuple[Automation, ...]
    referring: tuple[str, ...]
    running: tuple[str, ...]


def find_removable(client: SyncPrefectClient, name: str) -> tuple[list[Removable], dict[str, Uses]]:
    """Return the deployments of a name, and the uses of each other deployment on the server.

    name      a deployment, such as 'movers/movers', or a flow: then all of its deployments
    """
    found = deployed(client)
    flow, _, of_flow = name.partition("/")
    if name not in found and (new := new_name(flow, of_flow)):
        name = f"{flow}/{new}"
    chosen = {full: each for full, each in found.items() if full == name or full.rpartition("/")[0] == name}
    others = {full: uses_of(each) for full, each in found.items() if full not in chosen}
    return [_removable(client, full, each) for full, each in chosen.items()], others


def _removable(client: SyncPrefectClient, name: str, deployment: DeploymentResponse) -> Removable:
    related = client.read_resource_related_automations(_resource(deployment.id))
    own = [each for each in related if _is_only_for(each, deployment.id)]
    return Removable(
        name,
        deployment,
        uses_of(deployment),
        automations=tuple(own),
        referring=tuple(each.name for each in related if each not in own),
        running=tuple(run.name for run in unended_runs(client, deployment.id)),
    )


def halt(client: SyncPrefectClient, removable: Removable, *, timeout: float) -> list[str]:
    """Pause the deployment, delete automations that start it, and end its runs in good order; return a line for each.

    raises    UnavailableError: a run has not ended within `timeout` seconds
    """
    client.pause_deployment(removable.deployment.id)
    for automation in removable.automations:
        client.delete_automation(automation.id)
    client.delete_resource_owned_automations(_resource(removable.deployment.id))
    but = "; its schedule is paused, its automations are deleted, and nothing else is removed yet"
    ended = end_runs(
        client, removable.deployment.id, removable.name, timeout, why="`sluice remove`", consequence=but
    )  # fmt: skip
    return [f"run {run.name} ended as {run.state_name}" for run in ended]


def remove(client: SyncPrefectClient, removables: Sequence[Removable], *, with_history: bool) -> None:
    """Delete deployments whose runs have ended, with their schedules.

    with_history   also their runs with logs and artifacts, and their flow if it has no other deployment
    """
    for each in removables:
        if with_history:
            _delete_history(client, each.deployment.id)
        try:
            client.delete_deployment(each.deployment.id)
        except ObjectNotFound:  # deleted in the UI since
            continue
    if with_history:
        used = {each.flow_id for each in deployed(client).values()}
        for flow in {each.deployment.flow_id for each in removables} - used:
            of_flow = FlowFilter.model_validate({"id": {"any_": [flow]}})
            _delete_artifacts(client, paged(client.read_flow_runs, flow_filter=of_flow))  # runs outside of deployments
            client.delete_flow(flow)


def _delete_history(client: SyncPrefectClient, deployment: UUID) -> None:
    of_deployment = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}})
    runs = paged(client.read_flow_runs, flow_run_filter=of_deployment)
    _delete_artifacts(client, runs)
    delete_runs(client, [run.id for run in runs])


def _delete_artifacts(client: SyncPrefectClient, runs: Sequence[FlowRun]) -> None:
    for first in range(0, len(runs), _AT_ONCE):
        some = [run.id for run in runs[first : first + _AT_ONCE]]
        of_runs = ArtifactFilter.model_validate({"flow_run_id": {"any_": some}})
        for artifact in paged(client.read_artifacts, artifact_filter=of_runs):
            client.delete_artifact(artifact.id)


def _resource(deployment: UUID) -> str:
    return f"prefect.deployment.{deployment}"


def _is_only_for(automation: Automation, deployment: UUID) -> bool:
    actions: Iterable[object] = automation.actions
    return all(getattr(action, "deployment_id", None) == deployment for action in actions)
