"""Moves deployments that have an old name to the one with the new name, on servers whose database is out of reach."""

from collections.abc import Callable, Iterator

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import DeploymentResponse

from deployments.rollout.blueprint import Blueprint
from deployments.rollout.deployed import deployed
from deployments.rollout.ending import end_runs
from deployments.servers.old_names import old_name
from flows.runtime.custom_parameters import custom_of
from flows.runtime.run_names import run_name
from tasks.errors import UnavailableError

__all__ = ["move_old_names", "with_old_names"]


def with_old_names(
    client: SyncPrefectClient, blueprint: Blueprint
) -> Iterator[tuple[str, DeploymentResponse, DeploymentResponse]]:
    """Yield the deployments of a blueprint that are on the server under their old names as well: the old full name, the old and the new one."""
    there, declared = deployed(client), {each.full_name for each in blueprint.deployments}
    for each in blueprint.deployments:
        full = f"{each.flow}/{old_name(each.flow, each.name)}"
        old, new = there.get(full), there.get(each.full_name)
        if full not in declared and old and new and old.id != new.id and old.entrypoint == new.entrypoint:
            yield full, old, new


def move_old_names(
    client: SyncPrefectClient, blueprint: Blueprint, *, timeout: float, say: Callable[[str], None]
) -> None:
    """End the runs of deployments with old names, start the new ones in their place, and delete the old ones.

    Pauses, and parameters that were given to a run alone, are carried over. The old runs stay on the page of their flow.

    timeout   seconds to wait at most for the runs of one deployment to end; one that has not ended is left, with its deployment
    """
    for full, old, new in list(with_old_names(client, blueprint)):
        _carry_pauses_over(client, old, new)
        client.pause_deployment(old.id)
        client.delete_resource_owned_automations(f"prefect.deployment.{old.id}")
        try:
            ended = end_runs(client, old.id, full, timeout, why=f"`sluice deploy`: {full} has another name now")
        except UnavailableError as error:
            say(f"{error}; then deploy again")
            continue
        for run in ended:
            custom = custom_of(run, ended, old.model_dump(mode="json"))
            client.create_flow_run_from_deployment(new.id, parameters=custom, name=run_name(new.name))
        client.delete_deployment(old.id)
        say(f"{full} is {full.partition('/')[0]}/{new.name} now")


def _carry_pauses_over(client: SyncPrefectClient, old: DeploymentResponse, new: DeploymentResponse) -> None:
    if old.paused:
        client.pause_deployment(new.id)
    active = {each.slug: each.active for each in old.schedules}
    for schedule in new.schedules:
        if schedule.slug in active and schedule.active != active[schedule.slug]:
            client.update_deployment_schedule(new.id, schedule.id, active=active[schedule.slug])
