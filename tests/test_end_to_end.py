"""The whole, for real: Prefect's server, worker and commands, Redis, `prefect.yaml`, and `sluice up`."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from prefect.states import Cancelling

from deployments import blueprint, rollout
from deployments.child import Child
from deployments.redis_server import RedisServer
from tasks.reservoir import Reservoir
from tests.plain import ROOT, Plain, clean_environment, free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)  # on a busy machine of two cores: three servers, ten flow runs


def entries(url: str, topic: str) -> int:
    try:
        with redis.Redis.from_url(url, protocol=2) as client:
            return client.xlen(topic)
    except redis.RedisError:
        return 0


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Plain]:
    with Plain(tmp_path_factory.mktemp("plain"), redis_server) as stack:
        yield stack


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
    assert rollout.strangers(plain.client, without)[0] == "archive/main"

    deployment = plain.client.read_deployment_by_name("vitals/main")
    plain.client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=False)
    plain.prefect("deploy", "--name", "vitals/main")
    (after,) = plain.client.read_deployment_by_name("vitals/main").schedules
    assert not after.active


def test_the_automation_for_lost_heartbeats_is_created_once(plain: Plain) -> None:
    rollout.ensure_automations(plain.client)
    rollout.ensure_automations(plain.client)
    assert [each.name for each in plain.client.read_automations()].count(
        "sluice - crash runs that lost their heartbeat"
    ) == 1


def test_an_inlet_and_an_outlet_run_by_prefects_command_and_the_outlet_comes_back_until_it_is_cancelled(
    plain: Plain,
) -> None:
    plain.prefect("deployment", "run", "seconds/main", "--param", "window=60s")
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
    assert "expected the name of a deployment, got 'nothing/main'; there are: archive/main, " in unknown.stderr


def test_a_run_that_is_cancelled_while_it_starts_ends_as_cancelled(plain: Plain) -> None:
    run = plain.client.create_flow_run_from_deployment(plain.client.read_deployment_by_name("busiest/main").id)
    wait_until(lambda: plain.state(run.id) == "Submitting", "its process to start", deadline=30)
    plain.client.set_flow_run_state(run.id, Cancelling())
    wait_until(lambda: plain.state(run.id) == "Cancelled", "its end", deadline=60)


class Up:
    """`sluice up` in a process of its own, with what it prints in a file."""

    def __init__(self, state: Path, port: int) -> None:
        self.state = state
        self.log = state.parent / "up.log"
        self.child = Child(
            "sluice up",
            [sys.executable, "-m", "deployments", "up", "--port", str(port)],
            log=self.log,
            env={**clean_environment(), "SLUICE_STATE_DIR": str(state), "COLUMNS": "150"},
            cwd=state.parent,
        )
        self.url = f"unix://{state / 'redis' / 'redis.sock'}"

    def said(self, text: str) -> bool:
        assert self.child.running, self.log.read_text()
        return text in self.log.read_text()

    def processes(self) -> list[psutil.Process]:
        """Return every process that has our state folder in its environment or command."""
        found = []
        for process in psutil.process_iter(["environ", "cmdline"]):
            environ = process.info["environ"] or {}
            mine = environ.get("SLUICE_STATE_DIR") == str(self.state)
            if mine or str(self.state) in " ".join(process.info["cmdline"] or []):
                found.append(process)
        return found


def test_sluice_up_runs_everything_survives_a_crash_and_leaves_nothing_behind(tmp_path: Path) -> None:
    state = tmp_path / "state"
    up = Up(state, free_port())
    try:
        up.child.start()
        for topic in ("busiest", "signals"):
            wait_until(
                lambda topic=topic: up.said("after") and entries(up.url, topic), f"results in {topic}", deadline=120
            )
        before = {topic: entries(up.url, topic) for topic in ("busiest", "signals", "market")}

        for process in [psutil.Process(up.child.pid), *up.processes()]:  # as if the machine had stopped
            process.kill()
        up.child.kill()  # which also reaps it
        wait_until(lambda: not up.processes(), "all of it to be gone")

        up.child.start()
        wait_until(lambda: up.said("without a process as crashed"), "the lost runs to be found", deadline=60)
        wait_until(lambda: up.said("movers Running"), "the outlets to be back", deadline=90)
        wait_until(lambda: entries(up.url, "signals") > before["signals"], "more results than before", deadline=60)
        assert all(entries(up.url, topic) >= length for topic, length in before.items())

        os.kill(up.child.pid or 0, signal.SIGINT)
        wait_until(lambda: not up.child.running, "Ctrl-C to end it", deadline=60)
        assert up.child.exit_code == 0
        assert "did not end in time" not in up.log.read_text()
        assert up.processes() == []
    finally:
        up.child.kill()
        for process in up.processes():
            process.kill()
        up.child.kill()
