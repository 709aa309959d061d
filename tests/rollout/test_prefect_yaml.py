"""`prefect.yaml` matches a schema of Sluice's own: Prefect 3.9.1 silently ignores unknown keys."""

import datetime as dt
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.cli.deploy._schedules import _construct_schedules
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.flows import load_flow_from_entrypoint
from rich.console import Console

from deployments.commands.init_templates import PREFECT_YAML
from deployments.servers.prefect_server import POOL
from tasks.checks import seconds

ROOT = Path(__file__).resolve().parents[2]
RAW = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS: list[dict[str, Any]] = RAW["deployments"]
INLETS = [each for each in DEPLOYMENTS if "inlet" in each["tags"]]
REPLAYS = [each for each in DEPLOYMENTS if "replay" in each["tags"]]
UPKEEP = [each for each in DEPLOYMENTS if "upkeep" in each["tags"]]
OUTLETS = [each for each in DEPLOYMENTS if "outlet" in each["tags"]]


def entrypoint(deployment: dict[str, Any]) -> str:
    return deployment["entrypoint"]


# The flow files of this repository. A user's own ones may have no deployment and any schedule.
SHIPPED = ("alerts", "clock", "market", "upkeep", "vitals")

every = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=entrypoint)
every_inlet = pytest.mark.parametrize("deployment", INLETS, ids=entrypoint)
every_outlet = pytest.mark.parametrize("deployment", OUTLETS, ids=entrypoint)

KNOWN = {
    "": {"name", "prefect-version", "pull", "definitions", "deployments"},
    "deployment": {
        "name",
        "description",
        "tags",
        "entrypoint",
        "parameters",
        "schedules",
        "concurrency_limit",
        "work_pool",
        "triggers",
        "version",
    },
    "schedule": {"slug", "interval", "cron", "timezone", "anchor_date", "parameters"},
    "concurrency_limit": {"limit", "collision_strategy", "grace_period_seconds"},
    "work_pool": {"name", "work_queue_name", "job_variables"},
    "job_variables": {"command", "env", "working_dir", "stream_output"},
    "trigger": {"name", "description", "expect", "match", "match_related", "schedule_after", "parameters", "enabled"},
}


def unknown_keys(kind: str, block: dict[str, Any]) -> set[str]:
    return set(block) - KNOWN[kind]


def test_the_file_has_no_key_that_prefect_would_ignore() -> None:
    assert not unknown_keys("", RAW)
    for deployment in DEPLOYMENTS:
        where = deployment["entrypoint"]
        assert not unknown_keys("deployment", deployment), where
        assert not unknown_keys("concurrency_limit", deployment["concurrency_limit"]), where
        assert not unknown_keys("work_pool", deployment["work_pool"]), where
        assert not unknown_keys("job_variables", deployment["work_pool"]["job_variables"]), where
        for schedule in deployment["schedules"] or []:
            assert not unknown_keys("schedule", schedule), where
        for trigger in deployment.get("triggers", []):
            assert not unknown_keys("trigger", trigger), where


def test_prefect_accepts_the_file() -> None:
    assert len(PrefectYamlModel.model_validate(RAW).deployments) == len(DEPLOYMENTS)


@pytest.mark.parametrize("text", [(ROOT / "prefect.yaml").read_text(), PREFECT_YAML], ids=["shipped", "of init"])
def test_prefect_deploy_in_a_terminal_asks_for_no_schedule(text: str) -> None:
    for deployment in yaml.safe_load(text)["deployments"]:
        asked: list[bool] = []
        # Prefect asks if it finds itself in a terminal; here it finds so, and the answer is no.
        _construct_schedules(deployment, {}, console=Console(), is_interactive=lambda: bool(asked.append(True)))  # noqa: B023
        assert not asked, deployment["entrypoint"]


def test_every_deployment_has_a_name_of_its_own() -> None:
    names = [(each["entrypoint"], each["name"]) for each in DEPLOYMENTS]
    assert len(set(names)) == len(names)


def test_every_deployment_has_one_kind_and_uses_the_pool() -> None:
    assert len(INLETS) + len(OUTLETS) + len(REPLAYS) + len(UPKEEP) == len(DEPLOYMENTS)
    assert {each["work_pool"]["name"] for each in DEPLOYMENTS} == {POOL}
    assert all("sluice" in each["tags"] for each in DEPLOYMENTS)  # deployments/automations.yaml selects by it


@every
def test_every_entrypoint_is_a_flow_whose_parameters_are_those_given(deployment: dict[str, Any]) -> None:
    flow = load_flow_from_entrypoint(str(ROOT / deployment["entrypoint"]), use_placeholder_flow=False)
    assert isinstance(flow, Flow)
    parameters = {**_defaults(flow), **deployment.get("parameters", {})}
    if not deployment["schedules"] and "upkeep" in deployment["tags"]:  # run by hand: its form asks for the others
        assert set(parameters) <= set(inspect.signature(flow.fn).parameters)
    else:
        flow.validate_parameters(parameters)


@every
def test_surplus_runs_are_cancelled_except_those_of_alerts_which_are_queued(deployment: dict[str, Any]) -> None:
    limit = 3 if "inlet" in deployment["tags"] else 1
    strategy = "ENQUEUE" if deployment["entrypoint"] == "flows/alerts.py:alert" else "CANCEL_NEW"
    assert deployment["concurrency_limit"] == {"limit": limit, "collision_strategy": strategy}


@every_inlet
def test_the_schedule_of_an_inlet_has_a_slug_and_no_active_key(deployment: dict[str, Any]) -> None:
    (schedule,) = deployment["schedules"]
    assert schedule["slug"]
    if "cron" not in schedule:
        assert "anchor_date" not in schedule or dt.datetime.fromisoformat(schedule["anchor_date"]).tzinfo
        assert schedule["interval"] >= 60  # Prefect skips runs of more frequent schedules
    assert "active" not in schedule  # else a deploy would end a pause that was set in the UI


@every_inlet
def test_run_of_an_inlet_pumps_until_the_next_one_starts(deployment: dict[str, Any]) -> None:
    flow = load_flow_from_entrypoint(str(ROOT / deployment["entrypoint"]), use_placeholder_flow=False)
    options = {**_defaults(flow), **deployment.get("parameters", {})}
    if not options["every"]:  # a one-shot inlet
        return
    assert seconds(options["window"]) > deployment["schedules"][0]["interval"]


@pytest.mark.parametrize("deployment", [each for each in UPKEEP if each["schedules"]], ids=entrypoint)
def test_upkeep_is_scheduled_seldom_since_each_run_costs_seconds(deployment: dict[str, Any]) -> None:
    (schedule,) = deployment["schedules"]
    assert schedule["slug"]
    assert schedule["interval"] >= 300
    assert "active" not in schedule


def test_shipped_schedules_start_at_different_times() -> None:
    shipped = [each for each in DEPLOYMENTS if Path(each["entrypoint"].partition(":")[0]).stem in SHIPPED]
    schedules = [each["schedules"][0] for each in shipped if "anchor_date" in (each["schedules"] or [{}])[0]]
    hour = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    starts = [
        (dt.datetime.fromisoformat(one["anchor_date"]) - hour).total_seconds() + n * one["interval"]
        for one in schedules
        for n in range(3600 // one["interval"])
    ]
    assert len({start % 3600 for start in starts}) == len(starts)


@every
def test_a_deployment_is_called_as_its_flow_or_its_replay(deployment: dict[str, Any]) -> None:
    flow = deployment["entrypoint"].rpartition(":")[2]
    assert deployment["name"] == (f"{flow}-replay" if "replay" in deployment["tags"] else flow)


@every_outlet
def test_an_outlet_has_no_schedule_and_no_trigger_of_its_own(deployment: dict[str, Any]) -> None:
    assert deployment["schedules"] is None
    assert "triggers" not in deployment


@pytest.mark.parametrize(("tag", "after"), [("inlet", 0), ("outlet", 5)])
def test_inlets_and_outlets_run_again_after_a_failure_but_not_after_a_stop(tag: str, after: int) -> None:
    raw = yaml.safe_load((ROOT / "deployments" / "automations.yaml").read_text())["automations"]
    [again] = [
        each
        for each in map(AutomationCore.model_validate, raw)
        if each.name == f"sluice - run {tag}s again that crashed"
    ]
    assert isinstance(again.trigger, EventTrigger)
    assert again.trigger.expect == {"prefect.flow-run.Crashed", "prefect.flow-run.Failed"}
    assert again.trigger.match_related.model_dump() == {  # type: ignore[union-attr]
        "prefect.resource.role": "tag",
        "prefect.resource.id": f"prefect.tag.{tag}",
    }
    [action] = again.actions
    assert isinstance(action, RunDeployment)
    assert (action.source, action.schedule_after) == ("inferred", dt.timedelta(seconds=after))


def test_a_replay_ends_by_itself_and_has_a_group_that_no_outlet_has() -> None:
    groups = set()
    for outlet in OUTLETS:
        flow = load_flow_from_entrypoint(str(ROOT / outlet["entrypoint"]), use_placeholder_flow=False)
        groups.add({**_defaults(flow), **outlet.get("parameters", {})}["group"])
    for replay in REPLAYS:
        assert replay["parameters"]["group"] not in groups
        assert replay["parameters"]["until"]
        assert replay["parameters"]["drop_group"]
        assert "triggers" not in replay


def test_every_flow_that_is_shipped_is_deployed() -> None:
    deployed = {each["entrypoint"] for each in DEPLOYMENTS}
    found = set()
    for name in SHIPPED:
        file = ROOT / "flows" / f"{name}.py"
        module = importlib.import_module(f"flows.{name}")
        found |= {
            f"flows/{file.name}:{name}"
            for name, value in vars(module).items()
            if isinstance(value, Flow) and value.name == name and _home(value) == file
        }
    assert len(found) >= len(SHIPPED)
    assert found - deployed == set()


def test_prefect_accepts_the_automations() -> None:
    raw = yaml.safe_load((ROOT / "deployments" / "automations.yaml").read_text())["automations"]
    for each in raw:
        automation = AutomationCore.model_validate(each)
        assert set(each["trigger"]) <= set(type(automation.trigger).model_fields)
        assert set(each["actions"][0]) <= set(type(automation.actions[0]).model_fields)


def _defaults(flow: Flow[..., Any]) -> dict[str, Any]:
    return {p.name: p.default for p in inspect.signature(flow.fn).parameters.values() if p.default is not p.empty}


def _home(flow: Flow[..., Any]) -> Path:
    return Path(inspect.getsourcefile(inspect.unwrap(flow.fn)) or "").resolve()
