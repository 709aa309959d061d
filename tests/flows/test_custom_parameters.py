"""A run that replaces a crashed one gets its custom parameters, and no others."""

import base64
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import CreatedBy, FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.flow_engine import run_flow
from prefect.states import Crashed

from flows.runtime.custom_parameters import LABEL, custom_of, differing, predecessor, run_again
from flows.runtime.parameters import flow_of

START = datetime(2026, 1, 1, tzinfo=UTC)
AUTOMATION = CreatedBy(id=uuid4(), type="AUTOMATION", display_value="run it again")


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def crashed(created: float, end: float, *, began: bool = True, **fields: Any) -> FlowRun:
    """Return a crashed run; times in seconds."""
    times = {"created": at(created), "start_time": at(created if began else end), "end_time": at(end)}
    return FlowRun.model_validate({"flow_id": uuid4(), "state_type": StateType.CRASHED, **times, **fields})


def made(created: float) -> FlowRun:
    """Return a run that an automation has just created."""
    return FlowRun.model_validate({"flow_id": uuid4(), "created": at(created), "created_by": AUTOMATION})


def deployment(deployed: float = 0, schedules: list[dict[str, Any]] | None = None, **parameters: Any) -> dict[str, Any]:
    updated = at(deployed).isoformat()
    return {"parameters": parameters, "updated": updated, "paused": False, "schedules": schedules or []}


def test_parameters_are_compared_as_json_and_templates_count_as_equal() -> None:
    template = {"__prefect_kind": "workspace_variable", "variable_name": "top"}
    given = {"flag": True, "top": 5, "words": ["b", "a"], "over": {"b": 1, "a": 2}, "new": None}
    base = {"flag": 1, "top": template, "words": ["a", "b"], "over": {"a": 2, "b": 1}, "old": 3}
    assert differing(given, base) == {"flag": True, "words": ["b", "a"], "new": None}


@pytest.mark.parametrize(
    ("of", "now", "custom"),
    [
        (crashed(5, 9, parameters={"over": 7}), deployment(over=5), {"over": 7}),
        (crashed(5, 9, parameters={"over": 5}), deployment(over=5), {}),
        (crashed(5, 9, parameters={"over": 5}), deployment(deployed=6, over=8), {}),
        (crashed(5, 9, parameters={"over": 7}, labels={LABEL: '{"over": 7}'}), deployment(6, over=8), {"over": 7}),
        (
            crashed(5, 9, parameters={"over": 7}, auto_scheduled=True),
            deployment(6, [{"active": True, "parameters": {"over": 7}}], over=5),
            {"over": 7},
        ),
        (
            crashed(5, 9, parameters={"over": 7}, auto_scheduled=True),
            deployment(6, [{"active": True, "parameters": {"over": 8}}], over=5),
            {},
        ),
    ],
    ids=["custom", "default", "deployed-since", "noted", "of-its-schedule", "of-a-schedule-that-is-gone"],
)
def test_custom_parameters_are_those_given_to_the_run_alone(
    of: FlowRun, now: dict[str, Any], custom: dict[str, Any]
) -> None:
    assert custom_of(of, [], now) == custom


def test_runs_that_crash_before_they_begin_hand_custom_parameters_on() -> None:
    first = crashed(0, 10, parameters={"over": 7})
    chain = [crashed(11 + 5 * n, 12 + 5 * n, began=False, created_by=AUTOMATION) for n in range(60)]
    last = made(312)
    assert custom_of(last, [*chain, first, last], deployment(over=5)) == {"over": 7}


def test_a_run_of_any_other_automation_takes_nothing_over() -> None:
    old = crashed(0, 10, parameters={"over": 7})
    alone = made(10 + 3600)
    assert predecessor(alone, [old, alone]) is None
    assert custom_of(alone, [old], deployment(over=5)) == {}


def test_a_crash_dated_by_a_clock_ahead_is_found() -> None:
    ahead, again = crashed(0, 13, parameters={"over": 7}), made(10)
    assert predecessor(again, [ahead]) == ahead


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.data())
def test_each_crashed_run_is_replaced_by_exactly_one_run(rounds: list[int], data: st.DataObject) -> None:
    """Several runs crash at about the same time, and automations start as many new ones; some crash again, and so on."""
    runs: list[FlowRun] = []
    pairs: list[tuple[FlowRun, FlowRun]] = []
    clock = 0.0
    for together in rounds:
        down = [crashed(clock, clock + 10 + n) for n in range(together)]
        again = [made(clock + 15 + n) for n in range(together)]
        refused = [crashed(clock + 16, clock + 17, began=False, created_by=AUTOMATION)]
        refused[0].state_type = StateType.CANCELLED
        runs += [*down, *again, *refused]
        for run in again:
            found = predecessor(run, data.draw(st.permutations(runs)))
            assert found
            pairs.append((found, run))
        clock += 30
    assert sorted(str(found.id) for found, _ in pairs) == sorted(
        str(run.id) for run in runs if run.state_type == StateType.CRASHED
    )


# -- on a real server ---------------------------------------------------------------------------------------------------

calls: list[dict[str, Any]] = []


@dataclass
class NoOptions:
    """Options of a decorator without options."""


def _function(over: int = 5, top: int = 10) -> None:
    """Record the arguments of a call.

    Args:
        over: The least.
        top: How many.
    """


def _run(own: dict[str, Any], options: dict[str, Any]) -> None:
    calls.append({**own, **options})


lasting = flow_of(_function, kind="inlet", options=NoOptions(), run=_run)


@pytest.fixture
def api(prefect: None) -> Iterator[SyncPrefectClient]:
    del prefect
    calls.clear()
    with get_client(sync_client=True) as api:
        yield api


@pytest.fixture
def deployed(api: SyncPrefectClient) -> Iterator[UUID]:
    made = deploy(api, "lasting")
    yield made
    with suppress(ObjectNotFound):
        api.delete_deployment(made)


def deploy(api: SyncPrefectClient, name: str) -> UUID:
    from prefect.utilities.callables import parameter_schema

    return api.create_deployment(
        api.create_flow(lasting),
        name,
        entrypoint="a.py:lasting",
        parameters={"top": 20},
        parameter_openapi_schema=parameter_schema(lasting.fn).model_dump_for_openapi(),
        enforce_parameter_schema=True,
    )


def by_automation(api: SyncPrefectClient, deployment: UUID) -> UUID:
    """Create a run as the action of an automation does."""
    name = base64.b64encode(b"run it again").decode()
    headers = {"Prefect-Automation-Id": str(uuid4()), "Prefect-Automation-Name": name}
    reply = api._client.post(f"/deployments/{deployment}/create_flow_run", json={}, headers=headers)
    return UUID(reply.json()["id"])


def begin(api: SyncPrefectClient, run: UUID) -> dict[str, Any]:
    """Run the flow run in this process; return its arguments."""
    run_flow(lasting, api.read_flow_run(run), return_type="state")
    return calls[-1]


def crash(api: SyncPrefectClient, run: UUID) -> None:
    api.set_flow_run_state(run, Crashed(), force=True)


def test_crashed_run_is_replaced_with_its_parameters_and_the_new_deployment(
    api: SyncPrefectClient, deployed: UUID
) -> None:
    first = api.create_flow_run_from_deployment(deployed, parameters={"over": 7}).id
    assert begin(api, first) == {"over": 7, "top": 20}
    api.update_deployment(deployed, DeploymentUpdate(parameters={"top": 30}))
    for _ in range(2):  # and once more after it came back
        crash(api, first)
        first = by_automation(api, deployed)
        assert api.read_flow_run(first).parameters == {"top": 30}
        assert begin(api, first) == {"over": 7, "top": 30}
        assert api.read_flow_run(first).parameters == {"over": 7, "top": 30}  # Prefect shows the run's parameters
    crash(api, first)
    again = run_again(api, api.read_deployment(deployed).model_dump(mode="json"))
    assert begin(api, again.id) == {"over": 7, "top": 30}


def test_a_run_with_its_deployments_parameters_comes_back_with_the_new_ones(
    api: SyncPrefectClient, deployed: UUID
) -> None:
    first = api.create_flow_run_from_deployment(deployed).id
    assert begin(api, first) == {"over": 5, "top": 20}
    api.update_deployment(deployed, DeploymentUpdate(parameters={"top": 30}))
    crash(api, first)
    assert begin(api, by_automation(api, deployed)) == {"over": 5, "top": 30}


def test_a_custom_parameter_the_flow_no_longer_takes_is_left_out(api: SyncPrefectClient, deployed: UUID) -> None:
    first = api.create_flow_run_from_deployment(deployed).id
    api.update_flow_run_labels(first, {LABEL: '{"over": 7, "gone": 1}'})
    crash(api, first)
    assert begin(api, by_automation(api, deployed)) == {"over": 7, "top": 20}
    for come_back in (
        by_automation,
        lambda api, of: run_again(api, api.read_deployment(of).model_dump(mode="json")).id,
    ):
        invalid = api.create_flow_run_from_deployment(deployed).id
        api.update_flow_run_labels(invalid, {LABEL: '{"over": "many"}'})
        crash(api, invalid)
        assert begin(api, come_back(api, deployed)) == {"over": 5, "top": 20}


def test_a_run_that_was_stopped_is_begun_with_its_deployments_parameters(
    api: SyncPrefectClient, deployed: UUID
) -> None:
    first = api.create_flow_run_from_deployment(deployed, parameters={"over": 7}).id
    begin(api, first)  # to its end
    again = run_again(api, api.read_deployment(deployed).model_dump(mode="json"))
    assert begin(api, again.id) == {"over": 5, "top": 20}
