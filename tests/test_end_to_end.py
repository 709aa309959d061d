"""The whole, for real: Prefect's server, worker and commands, Redis, and `prefect.yaml`."""

import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from playwright.sync_api import Page
from prefect.client.schemas.filters import LogFilter
from prefect.client.schemas.objects import FlowRun
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.states import Cancelling

from deployments import blueprint, rollout
from deployments.redis_server import RedisServer
from flows.market import quotes, with_prefix
from flows.vitals import vitals
from tasks import history
from tasks.reservoir import Reservoir
from tests.browser import Browser, browser_on
from tests.plain import ROOT, Plain, entries
from tests.streams import push_all
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)  # on a busy machine of two cores: three servers, ten flow runs


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Plain]:
    stack = Plain(tmp_path_factory.mktemp("plain"), redis_server)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def test_prefect_deploys_everything_in_the_file_with_schedules_limits_and_automations(plain: Plain) -> None:
    declared = blueprint.read_blueprint(ROOT / "prefect.yaml")
    found = {
        f"{plain.client.read_flow(each.flow_id).name}/{each.name}": each for each in plain.client.read_deployments()
    }
    assert set(found) == {f"{each.entrypoint.rpartition(':')[2]}/{each.name}" for each in declared.deployments}
    assert {len(each.schedules) for name, each in found.items() if "inlet" in each.tags} == {1}
    assert {name for name, each in found.items() if "outlet" in each.tags and not each.schedules} == {
        "ticking/main",
        "busiest/main",
        "movers/main",
        "archive/main",
    }
    assert all(each.active for deployment in found.values() for each in deployment.schedules)
    assert found["ticking/main"].pull_steps == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}
    ]
    assert len(plain.client.read_automations()) == 4


def test_a_schedule_the_file_no_longer_has_is_cleared_and_a_pause_survives_a_deploy(plain: Plain) -> None:
    declared = blueprint.read_blueprint(ROOT / "prefect.yaml")
    declared = declared.named({each.entrypoint: each.entrypoint.rpartition(":")[2] for each in declared.deployments})
    assert rollout.clear_schedules(plain.client, declared) == []
    without = blueprint.Blueprint(
        declared.path,
        tuple(
            blueprint.Deployment(each.name, each.entrypoint, each.flow, each.tags, frozenset(), None)
            for each in declared.deployments
            if each.flow == "seconds"
        ),
    )
    assert rollout.clear_schedules(plain.client, without) == ["seconds/main: every-minute"]
    assert rollout.strangers(plain.client, without)[0] == "alert/main"

    deployment = plain.client.read_deployment_by_name("vitals/main")
    plain.client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=False)
    plain.prefect("deploy", "--name", "vitals/main")
    (after,) = plain.client.read_deployment_by_name("vitals/main").schedules
    assert not after.active


def test_the_automations_are_created_once_renewed_and_left_alone_when_somebody_has_edited_or_paused_them(
    plain: Plain,
) -> None:
    def found() -> dict[str, Automation]:
        return {each.name: each for each in plain.client.read_automations() if each.name.startswith("sluice - ")}

    def change(name: str, **changes: Any) -> None:
        before = {key: value for key, value in found()[name] if key not in {"id", "owner_resource"}}
        changed = AutomationCore.model_validate(before | changes)
        plain.client.update_automation(found()[name].id, changed)

    rollout.ensure_automations(plain.client)
    heartbeats, lags = "sluice - crash runs that lost their heartbeat", "sluice - tell when a group lags"
    shipped = found()
    assert set(shipped) == {heartbeats, lags}
    rollout.ensure_automations(plain.client)
    assert found() == shipped

    edited = shipped[lags].trigger.model_copy(update={"within": timedelta(minutes=5)})
    change(lags, trigger=edited)
    older = shipped[heartbeats].model_copy(update={"description": "as an older version had it"})
    change(heartbeats, description=older.description, tags=["sluice", rollout.fingerprint(older)], enabled=False)
    rollout.ensure_automations(plain.client)
    assert found()[lags].trigger == edited
    assert found()[heartbeats] == shipped[heartbeats].model_copy(update={"enabled": False})

    change(lags, trigger=shipped[lags].trigger)
    change(heartbeats, enabled=True)
    assert found() == shipped


@pytest.fixture(scope="module")
def levels_run(plain: Plain) -> UUID:
    """A run of `levels` on a reservoir in which a group lags, and another did in the hours before."""
    rollout.ensure_automations(plain.client)
    now = time.time_ns() // 1_000_000
    with redis.Redis.from_url(plain.redis_url, protocol=2) as client:
        push_all(client, "flooded", range(5))
        client.xgroup_create("flooded", "slow", "0")
        for n in range(60):
            lag = round(400 * abs(math.sin(n / 9)) * n / 60)
            client.xadd(
                history.KEY,
                {"groups": json.dumps([["market", "movers", lag, 0, 0]])},
                id=f"{now - (60 - n) * 300_000}-0",
            )
    run = plain.client.create_flow_run_from_deployment(plain.deployment("levels/main"), parameters={"max_lag": 3})
    wait_until(lambda: plain.state(run.id) == "Completed", "its end", deadline=60)
    return run.id


@pytest.mark.usefixtures("levels_run")
def test_a_group_that_lags_is_told_of_once_by_the_automation(plain: Plain) -> None:
    wait_until(lambda: plain.runs("alert"), "the automation to run it", deadline=60)
    (told,) = plain.runs("alert")
    wait_until(lambda: plain.state(told.id) == "Completed", "its end", deadline=60)
    message = "group 'slow' on topic 'flooded': 5 entries behind"
    assert plain.client.read_flow_run(told.id).name == message
    warnings = LogFilter.model_validate({"level": {"ge_": logging.WARNING}, "flow_run_id": {"any_": [told.id]}})
    wait_until(lambda: plain.client.read_logs(warnings), "its log line", deadline=30)
    assert [line.message for line in plain.client.read_logs(warnings)] == [message]

    def emit(group: str) -> None:
        again = event | {"id": str(uuid4()), "occurred": datetime.now(UTC).isoformat(), "payload": {"message": group}}
        again["related"] = [{**event["related"][0], "prefect.resource.id": group}, *event["related"][1:]]
        plain.client.request("POST", "/events", json=[again])

    reply = plain.client.request(
        "POST", "/events/filter", json={"filter": {"event": {"name": ["sluice.topic.lagging"]}}}
    )
    event = reply.json()["events"][0]
    emit(event["related"][0]["prefect.resource.id"])  # within the hour
    emit("another")
    wait_until(lambda: len(plain.runs("alert")) > 1, "another group to be told of", deadline=30)
    assert [run.parameters["message"] for run in plain.runs("alert")] == [message, "another"]


def test_an_inlet_and_an_outlet_run_by_prefects_command_and_the_outlet_comes_back_until_it_is_cancelled(
    plain: Plain,
) -> None:
    assert "/v2/runs/flow-run/" in plain.prefect("deployment", "run", "seconds/main", "--param", "window=60s")
    plain.prefect("deployment", "run", "ticking/main", "--param", "into=ticks")
    wait_until(lambda: entries(plain.redis_url, "ticks"), "results of ticking in its topic", deadline=60)
    newest = Reservoir.from_url(plain.redis_url).peek("ticks")[0]
    assert newest, "an entry with the counts"

    (first,) = plain.runs("ticking")
    assert plain.state(first.id) == "Running"
    os.kill(int(first.infrastructure_pid or 0), signal.SIGKILL)
    wait_until(lambda: plain.state(first.id) == "Crashed", "the worker to notice the crash", deadline=30)
    wait_until(lambda: len(plain.runs("ticking")) == 2, "the trigger to run it again", deadline=30)
    second = plain.runs("ticking")[1]
    wait_until(lambda: plain.state(second.id) == "Running", "the second run to run", deadline=60)

    third = plain.client.create_flow_run_from_deployment(second.deployment_id)  # type: ignore[arg-type]
    wait_until(lambda: plain.state(third.id) == "Cancelled", "a run beside it to be cancelled", deadline=30)

    plain.client.set_flow_run_state(second.id, Cancelling())
    wait_until(lambda: plain.state(second.id) == "Cancelled", "the second run to end when cancelled", deadline=60)
    # Were there a trigger for it, the run it starts would be there by now: it is created when the state is seen.
    assert len(plain.runs("ticking")) == 3


def test_restart_ends_what_runs_in_good_order_and_runs_it_again(plain: Plain) -> None:
    def restart(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deployments", "restart", name]
        return subprocess.run(
            command, env=plain.env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )

    before = len(plain.runs("busiest"))
    assert "is Running" in restart("busiest").stdout  # nothing ran: it is just run
    said = restart("busiest/main").stdout
    first, second = plain.runs("busiest")[before:]
    assert f"run {first.name} ended as Cancelled" in said
    assert f"run {second.name} is Running" in said
    assert (plain.state(first.id), plain.state(second.id)) == ("Cancelled", "Running")
    plain.client.set_flow_run_state(second.id, Cancelling())
    wait_until(lambda: plain.state(second.id) == "Cancelled", "the second run to end when cancelled", deadline=60)

    unknown = restart("nothing")
    assert unknown.returncode == 1
    assert (
        "expected the name of a deployment, got 'nothing/main'; there are: alert/main, archive/main, " in unknown.stderr
    )


def test_a_run_that_is_cancelled_while_it_starts_ends_as_cancelled(plain: Plain) -> None:
    run = plain.client.create_flow_run_from_deployment(plain.client.read_deployment_by_name("busiest/main").id)
    wait_until(lambda: plain.state(run.id) == "Submitting", "its process to start", deadline=30)
    plain.client.set_flow_run_state(run.id, Cancelling())
    wait_until(lambda: plain.state(run.id) == "Cancelled", "its end", deadline=60)


@pytest.fixture(scope="module")
def browser(plain: Plain, request: pytest.FixtureRequest) -> Iterator[Browser]:
    folder = request.config.getoption("--screenshots")
    with browser_on(plain.env["PREFECT_API_URL"], Path(folder) if folder else None) as browser:
        yield browser


def described(page: Page, parameter: str) -> str:
    """Return what the form says of a parameter."""
    label = page.locator("label", has_text=re.compile(rf"^{parameter} \(Optional\)$"))
    return label.locator("xpath=following-sibling::p").inner_text()


def submitted(plain: Plain, page: Page, flow: str) -> FlowRun:
    """Send the form off and return the run that comes of it."""
    before = len(plain.runs(flow))
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/deployment/*?tab=Runs")  # where the form leads
    runs = plain.runs(flow)
    assert len(runs) == before + 1
    return runs[-1]


def test_the_form_of_an_inlet_describes_all_parameters_and_runs_it(plain: Plain, browser: Browser) -> None:
    page = browser.open_run_form(plain.deployment("quotes/main"))
    assert described(page, "seed") == "The simulated exchange's. Each seed is another market."
    assert described(page, "threads") == "How many pumps may run at once. 0 - one, in the run's own thread."
    browser.shoot("inlet-form", height=1400)
    page.get_by_label("topic (Optional)", exact=True).fill("quoted")
    page.get_by_label("window (Optional)", exact=True).fill("45s")
    run = submitted(plain, page, "quotes")
    assert (run.parameters["topic"], run.parameters["window"]) == ("quoted", "45s")
    wait_until(lambda: entries(plain.redis_url, "quoted"), "its first quotes", deadline=60)


@contextmanager
def vital_signs(url: str) -> Iterator[None]:
    """Push what the inlet `vitals` pumps, for as long as this lasts."""
    reservoir, stop = Reservoir.from_url(url), threading.Event()

    def pump() -> None:
        while not stop.wait(0.5):
            reservoir.push("machine", vitals.pump())

    thread = threading.Thread(target=pump)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_an_outlet_started_from_its_form_draws_its_pipeline_and_is_cancelled_in_the_ui(
    plain: Plain, browser: Browser
) -> None:
    page = browser.open_run_form(plain.deployment("busiest/main"))
    assert described(page, "top") == "How many processes."
    assert described(page, "group") == "The consumer group. Each group sees every entry; runs of one group share them."
    browser.shoot("outlet-form", height=1650)
    page.get_by_label("top (Optional)", exact=True).fill("4")
    with vital_signs(plain.redis_url):
        run = submitted(plain, page, "busiest")
        wait_until(lambda: "latest result" in str(plain.artifact(run.id)), "its report", deadline=60)
        artifact = plain.artifact(run.id)
        assert artifact
        drawn = browser.open_drawn(artifact.id)
        for node in ("from_redis", "filter(has(vitals))", "pluck", "sliding_window", "map(most_used)", "to_redis"):
            assert node in drawn
        assert re.search(r"[1-9]/s", drawn)
        assert page.locator("table").last.locator("tr").count() == 1 + 4
        browser.shoot("live-diagram", height=1250)

    browser.open(f"runs/flow-run/{run.id}").get_by_role("button", name="Open menu").click()
    page.get_by_role("menuitem", name="Cancel").click()
    page.get_by_role("button", name="Cancel Flow Run").click()
    wait_until(lambda: plain.state(run.id) == "Cancelled", "its end", deadline=60)


def test_a_schedule_is_paused_and_resumed_with_its_switch(plain: Plain, browser: Browser) -> None:
    def active() -> bool:
        (schedule,) = plain.client.read_deployment_by_name("slow_seconds/main").schedules
        return bool(schedule.active)

    page = browser.open(f"deployments/deployment/{plain.deployment('slow_seconds/main')}")
    switch = page.get_by_role("switch", name="toggle Every 1 minute")
    assert active()
    switch.click()
    wait_until(lambda: not active(), "the pause")
    browser.shoot("schedule", height=700)
    switch.click()
    wait_until(active, "the end of the pause")


def test_a_replay_shows_how_far_it_is(plain: Plain, browser: Browser) -> None:
    frame = with_prefix(quotes.pump(), "150")
    reservoir = Reservoir.from_url(plain.redis_url)
    for _ in range(100 if browser.shoots else 3):  # a picture wants a replay that is under way
        reservoir.push_many("replayed", [{"quotes": frame}] * 10)
    replay = plain.client.create_flow_run_from_deployment(
        plain.deployment("movers/replay"), parameters={"topics": "replayed"}
    )

    def percent() -> float:
        progress = plain.artifact(replay.id, "progress")
        return float(str(progress.data)) if progress else -1

    wait_until(lambda: percent() >= (20 if browser.shoots else 0), "its progress", deadline=120)
    report, progress = plain.artifact(replay.id), plain.artifact(replay.id, "progress")
    assert report
    assert progress
    browser.open_drawn(report.id)
    browser.shoot("replay-progress", height=700)
    wait_until(lambda: plain.state(replay.id) == "Completed", "its end", deadline=120)
    browser.open(f"artifacts/artifact/{progress.id}").get_by_text("Progress: 100%").wait_for()
    browser.open(f"artifacts/artifact/{report.id}").get_by_text("100 % of a replay up to replayed").wait_for()


def test_lag_over_time_is_drawn_in_a_colour_that_is_seen(plain: Plain, browser: Browser, levels_run: UUID) -> None:
    artifact = plain.artifact(levels_run)
    assert artifact
    drawn = browser.open_drawn(artifact.id)
    assert "movers on market" in drawn
    assert browser.page.locator("svg[id^=mermaid] path[stroke='#c0392b']").count() == 1
    browser.shoot("levels", height=1100)
