"""Deployments with old names on a server whose database is out of reach, such as a user's own."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.states import Running

from deployments.rollout.blueprint import Blueprint, Deployment
from deployments.rollout.deployed import deployed
from deployments.rollout.moving import move_old_names

pytestmark = pytest.mark.usefixtures("prefect")

POINT = "flows/moved.py:moved"


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client
        client.delete_flow(client.create_flow_from_name("moved"))


def deploy(client: SyncPrefectClient, name: str) -> UUID:
    schedule = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=3600), slug="hourly")  # type: ignore[arg-type]
    return client.create_deployment(
        client.create_flow_from_name("moved"),
        name,
        entrypoint=POINT,
        tags=["sluice"],
        schedules=[schedule],
        parameters={"top": 3},
    )


def blueprint(*names: str) -> Blueprint:
    return Blueprint(
        Path("prefect.yaml"), tuple(Deployment(name, POINT, "moved", frozenset(), frozenset(), None) for name in names)
    )


def running(client: SyncPrefectClient, deployment: UUID, **parameters: object) -> FlowRun:
    """Make a run that ends as soon as it is cancelled, because it has no process."""
    return client.create_flow_run_from_deployment(deployment, parameters=parameters)


def names(client: SyncPrefectClient) -> set[str]:
    return {full for full in deployed(client) if full.startswith("moved/")}


def test_pauses_and_runs_are_carried_over_and_the_old_deployment_is_deleted(client: SyncPrefectClient) -> None:
    old = deploy(client, "main")
    client.update_deployment_schedule(old, client.read_deployment(old).schedules[0].id, active=False)
    run = running(client, old, top=7)
    new, said = deploy(client, "moved"), []
    move_old_names(client, blueprint("moved"), timeout=20, say=said.append)
    assert said == ["moved/main is moved/moved now"]
    assert names(client) == {"moved/moved"}
    [schedule] = client.read_deployment(new).schedules
    assert not schedule.active
    assert client.read_flow_run(run.id).state_name == "Cancelled"
    [again] = [each for each in client.read_flow_runs() if each.deployment_id == new and not each.auto_scheduled]
    assert again.parameters == {"top": 7}
    assert again.name.startswith("moved ")


def test_a_run_that_does_not_end_leaves_the_old_deployment(client: SyncPrefectClient) -> None:
    old = deploy(client, "main")
    client.set_flow_run_state(client.create_flow_run_from_deployment(old).id, Running(), force=True)
    deploy(client, "moved")
    said: list[str] = []
    move_old_names(client, blueprint("moved"), timeout=0, say=said.append)
    [line] = said
    assert line.startswith("moved/main: run ")
    assert line.endswith("; then deploy again")
    assert names(client) == {"moved/main", "moved/moved"}


def test_a_deployment_that_is_declared_under_its_old_name_stays(client: SyncPrefectClient) -> None:
    deploy(client, "main")
    deploy(client, "moved")
    said: list[str] = []
    move_old_names(client, blueprint("main", "moved"), timeout=0, say=said.append)
    assert (said, names(client)) == ([], {"moved/main", "moved/moved"})
