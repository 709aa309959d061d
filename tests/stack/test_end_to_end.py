"""End to end: Prefect's server, worker and commands, Redis, and `prefect.yaml`."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import LogFilter
from prefect.client.schemas.objects import FlowRun
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from deployments.checks import orchestrator as check_prefect
from deployments.rollout import apply as rollout
from deployments.rollout import blueprint, runs
from deployments.servers.ledger import flow_run_processes
from deployments.servers.prefect_server import POOL
from tasks.reservoir import Reservoir
from tests.support.plain import ROOT, SECRET, Plain, entries
from tests.support.waiting import wait_until

MENDED = """\
from flows import outlet

@outlet(topics="machine", group="mended")
def mended(source):
    {}
"""

# On a busy machine of two cores: three servers, ten flow runs.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_prefect_deploys_the_whole_file_with_schedules_limits_and_automations(deployed: Plain) -> None:
    declared = blueprint.read_blueprint(ROOT / "prefect.yaml")
    found = {
        f"{deployed.client.read_flow(each.flow_id).name}/{each.name}": each
        for each in deployed.client.read_deployments()
    }
    assert set(found) == {f"{each.entrypoint.rpartition(':')[2]}/{each.name}" for each in declared.deployments}
    assert {len(each.schedules) for name, each in found.items() if "inlet" in each.tags} == {1}
    assert {name for name, each in found.items() if "outlet" in each.tags and not each.schedules} >= {
        "ticking/ticking",
        "busiest/busiest",
        "movers/movers",
        "archive/archive",
    }
    assert all(each.active for deployment in found.values() for each in deployment.schedules)
    assert found["ticking/ticking"].pull_steps == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}
    ]


def test_a_schedule_the_file_no_longer_has_is_cleared_and_a_pause_survives_a_deploy(deployed: Plain) -> None:
    declared = blueprint.read_blueprint(ROOT / "prefect.yaml")
    declared = declared.named({each.entrypoint: each.entrypoint.rpartition(":")[2] for each in declared.deployments})
    assert rollout.clear_schedules(deployed.client, declared) == []
    without = blueprint.Blueprint(
        declared.path,
        tuple(
            blueprint.Deployment(each.name, each.entrypoint, each.flow, each.tags, frozenset(), None)
            for each in declared.deployments
            if each.flow == "seconds"
        ),
    )
    assert rollout.clear_schedules(deployed.client, without) == ["seconds/seconds: every-10-minutes"]
    strangers = rollout.strangers(deployed.client, without)
    assert "alert/alert" in strangers
    assert "seconds/seconds" not in strangers

    deployment = deployed.client.read_deployment_by_name("vitals/vitals")
    deployed.client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=False)
    deployed.prefect("deploy", "--name", "vitals/vitals")
    (after,) = deployed.client.read_deployment_by_name("vitals/vitals").schedules
    assert not after.active


def test_doctor_finds_differences_from_prefect_yaml(
    plain: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_STATE_DIR", str(tmp_path))

    def found(root: Path) -> dict[str, str]:
        with temporary_settings({PREFECT_API_URL: plain.env["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: SECRET}):
            return {
                f"{each.level} {each.check}": f"{each.says}; {each.do}" for each in check_prefect.check_prefect(root)
            }

    wait_until(lambda: "ok worker" in found(ROOT), "the worker to be online")
    rollout.ensure_automations(plain.client)
    as_it_is = found(ROOT)
    assert {"ok Prefect", "ok work pool", "ok worker", "ok automations", "ok Secret block"} <= set(as_it_is)
    vitals = plain.client.read_deployment_by_name("vitals/vitals")
    plain.client.update_deployment_schedule(vitals.id, vitals.schedules[0].id, active=False)
    assert "vitals/vitals" in found(ROOT)["warn schedules"]
    plain.client.update_deployment_schedule(vitals.id, vitals.schedules[0].id, active=True)

    raw = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    raw["deployments"][0]["tags"].append("another")
    del raw["deployments"][1]
    raw["deployments"].append({"name": "new", "entrypoint": "flows/clock.py:seconds"})
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(raw))
    changed = found(tmp_path)
    assert changed["fail deployments"] == (
        "in prefect.yaml, but not on the server: seconds/new; `sluice deploy`, or `make up`"
    )
    assert "warn deployments" in changed

    plain.client.create_work_pool(WorkPoolCreate(name="idle", type="process", is_paused=True))
    monkeypatch.setattr(check_prefect, "POOL", "idle")
    monkeypatch.setattr(runs, "POOL", "idle")
    idle = found(ROOT)
    assert "`prefect work-pool resume idle`" in idle["fail work pool"]
    assert "`prefect worker start --pool idle --type process`" in idle["fail worker"]
    monkeypatch.setattr(check_prefect, "POOL", "nowhere")
    monkeypatch.setattr(runs, "POOL", "nowhere")
    assert "there is no pool 'nowhere'" in found(ROOT)["fail work pool"]
    assert runs.workers_online(plain.client) == []


def test_automations_are_created_once_and_renewed_unless_edited_or_paused(
    deployed: Plain,
) -> None:
    def found() -> dict[str, Automation]:
        return {each.name: each for each in deployed.client.read_automations() if each.name.startswith("sluice - ")}

    def change(name: str, **changes: Any) -> None:
        before = {key: value for key, value in found()[name] if key not in {"id", "owner_resource"}}
        changed = AutomationCore.model_validate(before | changes)
        deployed.client.update_automation(found()[name].id, changed)

    rollout.ensure_automations(deployed.client)
    heartbeats, lags = "sluice - crash runs that lost their heartbeat", "sluice - tell when a group lags"
    shipped = found()
    again = {f"sluice - run {kind} again that crashed" for kind in ("inlets", "outlets")}
    assert set(shipped) == {heartbeats, lags, *again}
    rollout.ensure_automations(deployed.client)
    assert found() == shipped

    edited = shipped[lags].trigger.model_copy(update={"within": timedelta(minutes=5)})
    change(lags, trigger=edited)
    older = shipped[heartbeats].model_copy(update={"description": "as an older version had it"})
    change(heartbeats, description=older.description, tags=["sluice", rollout.fingerprint(older)], enabled=False)
    rollout.ensure_automations(deployed.client)
    assert found()[lags].trigger == edited
    assert found()[heartbeats] == shipped[heartbeats].model_copy(update={"enabled": False})

    change(lags, trigger=shipped[lags].trigger)
    change(heartbeats, enabled=True)
    assert found() == shipped


@pytest.mark.usefixtures("levels_run")
def test_the_automation_reports_a_lagging_group_once_an_hour(plain: Plain) -> None:
    wait_until(lambda: plain.runs("alert"), "the automation to run it")
    (alert,) = plain.runs("alert")
    wait_until(lambda: plain.state(alert.id) == "Completed", "its end")
    message = plain.client.read_flow_run(alert.id).name
    assert re.fullmatch(r"group 'slow' on topic 'flooded' is behind by [0-9.]+ \w+, 5 entries", message)
    warnings = LogFilter.model_validate({"level": {"ge_": logging.WARNING}, "flow_run_id": {"any_": [alert.id]}})
    wait_until(lambda: plain.client.read_logs(warnings), "its log line")
    assert [line.message for line in plain.client.read_logs(warnings)] == [message]

    def alerted() -> list[str]:
        return sorted(run.parameters["message"] for run in plain.runs("alert"))

    def emit(alarm: str) -> None:
        again = event | {"id": str(uuid4()), "occurred": datetime.now(UTC).isoformat(), "payload": {"message": alarm}}
        is_alarm = {"prefect.resource.role": "alarm"}
        again["related"] = [
            {**one, "prefect.resource.id": alarm} if is_alarm.items() <= one.items() else one
            for one in event["related"]
        ]
        plain.client.request("POST", "/events", json=[again])

    reply = plain.client.request(
        "POST", "/events/filter", json={"filter": {"event": {"name": ["sluice.topic.lagging"]}}}
    )
    event = reply.json()["events"][0]
    for alarm in ("fresh", "fresh", "another"):
        emit(alarm)
    wait_until(lambda: {"fresh", "another"} <= set(alerted()), "alerts for two more alarms")
    assert alerted() == sorted([message, "fresh", "another"])


def test_prefects_command_runs_an_inlet_and_an_outlet_that_restarts_until_cancelled(
    plain: Plain,
) -> None:
    rollout.ensure_automations(plain.client)
    assert "/v2/runs/flow-run/" in plain.prefect("deployment", "run", "seconds/seconds", "--param", "window=60s")
    plain.prefect("deployment", "run", "ticking/ticking", "--param", "into=ticks")
    wait_until(lambda: entries(plain.redis_url, "ticks"), "results of ticking in its topic")
    newest = Reservoir.from_url(plain.redis_url).peek("ticks")[0]
    assert newest, "an entry with the counts"

    (first,) = plain.runs("ticking")
    assert plain.state(first.id) == "Running"
    os.kill(int(first.infrastructure_pid or 0), signal.SIGKILL)
    wait_until(lambda: plain.state(first.id) == "Crashed", "the worker to notice the crash")
    wait_until(lambda: len(plain.runs("ticking")) == 2, "the automation to run it again")
    second = plain.runs("ticking")[1]
    wait_until(lambda: plain.state(second.id) == "Running", "the second run to run")
    before = entries(plain.redis_url, "ticks")
    wait_until(
        lambda: entries(plain.redis_url, "ticks") > before, "results of the second run in the topic of the first"
    )
    assert plain.client.read_flow_run(second.id).parameters == {"into": "ticks"}

    third = plain.client.create_flow_run_from_deployment(second.deployment_id)  # type: ignore[arg-type]
    wait_until(lambda: plain.state(third.id) == "Cancelled", "a run beside it to be cancelled")

    plain.client.set_flow_run_state(second.id, Cancelling())
    wait_until(lambda: plain.state(second.id) == "Cancelled", "the second run to end when cancelled")
    assert_logs_one_line(plain, second)
    # The automation would have created a run by now: it does so when it receives the state.
    assert len(plain.runs("ticking")) == 3


def assert_logs_one_line(plain: Plain, run: FlowRun) -> None:
    """Assert that a run of less than a minute logged one line besides Prefect's, with its counts at the end."""
    assert plain.client.read_flow_run(run.id).total_run_time < timedelta(minutes=1)
    of_the_run = LogFilter.model_validate({"level": {"ge_": logging.INFO}, "flow_run_id": {"any_": [run.id]}})

    def lines() -> list[str]:
        found = plain.client.read_logs(of_the_run)
        return [line.message for line in found if line.name in ("prefect.flow_runs", "prefect.engine")]

    wait_until(lambda: any(line.startswith("Finished in state") for line in lines()), "its last line")
    *_, last = lines()
    assert last.startswith("Finished in state Cancelled(\"Stopped in good order: group 'ticking' has read ")
    by_prefect = re.compile("Beginning flow run|View at|Finished in")
    own = [line for line in lines() if not by_prefect.match(line)]
    assert len(own) == 1, own
    assert own[0].startswith("ticking: group 'ticking' has read ")


def sluice(plain: Plain, *arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deployments", *arguments]
    env = plain.env | {"SLUICE_PROJECT": str(root)}
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


def test_an_outlet_is_restarted_stopped_and_rewound_as_the_replay_page_shows(plain: Plain) -> None:
    before = len(plain.runs("busiest"))
    first = plain.client.create_flow_run_from_deployment(plain.deployment("busiest/busiest"))
    wait_until(lambda: first.id in dict(flow_run_processes(plain.folder)), "its process to start")
    done = sluice(plain, "restart", "busiest")
    one, second = plain.runs("busiest")[before:]
    assert f"run {one.name} ended as Cancelled" in done.stdout, done.stderr
    assert re.fullmatch(r"busiest \d\d:\d\d", second.name)
    assert f"run {second.name} is Running" in done.stdout
    wait_until(lambda: first.id not in dict(flow_run_processes(plain.folder)), "the process of the first to end")
    assert (plain.state(first.id), plain.state(second.id)) == ("Cancelled", "Running")

    done = sluice(plain, "stop", "busiest/main")  # its old name
    assert (done.returncode, done.stdout) == (0, f"busiest/busiest: run {second.name} ended as Cancelled\n"), (
        done.stderr
    )
    where = ["--param", "topic=machine", "--param", "group=busiest", "--param", "to=beginning"]
    plain.prefect("deployment", "run", "rewind/rewind", *where, "--watch")
    assert plain.runs("busiest")[-1].id == second.id  # nothing has started another run

    idle = sluice(plain, "stop", "slow_seconds")
    assert idle.stdout.startswith(
        "slow_seconds/slow_seconds: nothing runs\nslow_seconds/slow_seconds: its schedule brings the next run"
    )
    unknown = sluice(plain, "restart", "nothing")
    assert unknown.returncode == 1
    assert "expected the name of a deployment, got 'nothing'; the server has: " in unknown.stderr
    assert "alert/alert, archive/archive, " in unknown.stderr


def test_sluice_deploy_brings_flows_automations_and_new_names(plain: Plain, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "flows", tmp_path / "flows")
    raw = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    [ours] = [each for each in raw["deployments"] if each["name"] == "rewind"]
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(raw | {"deployments": [ours]}))
    old = plain.client.create_deployment(
        plain.client.create_flow_from_name("rewind"),
        "main",
        entrypoint=ours["entrypoint"],
        tags=["sluice"],
        paused=True,
    )
    for each in plain.client.read_automations_by_name("sluice - run outlets again that crashed"):
        plain.client.delete_automation(each.id)
    try:
        done = sluice(plain, "deploy", root=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "1 deployments of prefect.yaml are on the server\n"
        assert "rewind/main is rewind/rewind now\n" in done.stderr
        assert plain.client.read_deployment_by_name("rewind/rewind").paused
        assert old not in {each.id for each in plain.client.read_deployments()}
        assert plain.client.read_automations_by_name("sluice - run outlets again that crashed")
    finally:
        plain.client.resume_deployment(plain.deployment("rewind/rewind"))
        plain.prefect("deploy", "--name", "rewind/rewind")  # with the folder of the other tests


def test_a_run_that_is_cancelled_while_it_starts_ends_as_cancelled(plain: Plain) -> None:
    run = plain.client.create_flow_run_from_deployment(plain.client.read_deployment_by_name("busiest/busiest").id)
    wait_until(lambda: run.id in dict(flow_run_processes(plain.folder)), "its process to start")
    plain.client.set_flow_run_state(run.id, Cancelling())
    wait_until(lambda: plain.state(run.id) == "Cancelled", "its end")


def test_restart_checks_the_import_before_it_stops_and_names_why_a_run_failed(plain: Plain, tmp_path: Path) -> None:
    file = tmp_path / "mended.py"
    file.write_text(MENDED.format("return source.map(str)"))
    of = plain.client.create_deployment(
        plain.client.create_flow_from_name("mended"),
        "main",
        entrypoint="mended.py:mended",
        work_pool_name=POOL,
        job_variables={"command": "python -m prefect.engine"},
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}],
    )
    done = sluice(plain, "restart", "mended")
    assert done.returncode == 0, done.stderr
    (first,) = plain.runs("mended")
    file.write_text(MENDED.format("return ("))
    refused = sluice(plain, "restart", "mended")
    assert refused.returncode == 1
    why = r"mended/main cannot be imported, so nothing was stopped: mended.py:mended: SyntaxError: .*\(mended.py, line \d+\)"
    assert re.search(why, refused.stderr)
    assert [plain.state(run.id) for run in plain.runs("mended")] == ["Running"]

    file.write_text(MENDED.format("raise ValueError('no such quote')"))
    failed = sluice(plain, "restart", "mended")
    assert failed.returncode == 1
    assert f"run {first.name} ended as Cancelled" in failed.stdout
    _, second = plain.runs("mended")
    assert failed.stderr.startswith(f"sluice: mended/main: run {second.name} is Failed: ")
    assert "no such quote" in failed.stderr
    assert f"`prefect flow-run logs {second.id}`" in failed.stderr
    plain.client.delete_flow(plain.client.read_deployment(of).flow_id)
