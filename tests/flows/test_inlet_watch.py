"""A run of an inlet ends within seconds once it is no longer wanted, on a real Prefect server."""

import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

import pytest
import redis
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import ObjectNotFound
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from deployments.servers.redis_server import RedisServer
from flows import inlet
from flows.runtime import inlet_watch, shared_poll
from tests.support.ports import refusing_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("prefect")


@inlet(topic="watched", every="50ms", window="5min")
def watched(n: int = 0) -> dict[str, int]:
    return {"n": n}


@pytest.fixture(autouse=True)
def quickly(redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    monkeypatch.setattr(inlet_watch, "_LOOK", 0.1)
    monkeypatch.setattr(inlet_watch, "_MINUTE", 0.5)
    monkeypatch.setattr(shared_poll, "POLL_SECONDS", 0.2)


@pytest.fixture
def api() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as api:
        yield api


@pytest.fixture
def deployment(api: SyncPrefectClient) -> Iterator[UUID]:
    schedule = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=600), active=True)
    made = api.create_deployment(
        flow_id=api.create_flow(watched), name=f"of-{uuid4().hex[:8]}", entrypoint="a.py:watched", schedules=[schedule]
    )
    yield made
    with suppress(ObjectNotFound):
        api.delete_deployment(made)


class Running:
    """A run of a deployment, in a thread of this process."""

    def __init__(self, api: SyncPrefectClient, deployment: UUID, flow: Flow[..., Any], **parameters: Any) -> None:
        self.api = api
        self.id = api.create_flow_run_from_deployment(deployment, parameters=parameters).id
        run = api.read_flow_run(self.id)
        around = contextvars.copy_context()
        self._thread = threading.Thread(
            target=around.run, args=(run_flow, flow, run), kwargs={"return_type": "state"}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ObjectNotFound):
            self.api.set_flow_run_state(self.id, Cancelling(), force=True)
        self._thread.join(30)
        assert not self._thread.is_alive()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def ended(self) -> FlowRun:
        wait_until(lambda: self.is_over, "the end of the run")
        return self.api.read_flow_run(self.id)


def is_pumping(client: redis.Redis) -> bool:
    return client.xlen("watched") > 3


def is_heard(client: redis.Redis, run: Running) -> Callable[[], bool]:
    return lambda: any(client.hget(key, str(run.id)) for key in client.scan_iter("*:seen"))


def test_a_pause_of_its_schedule_ends_a_run_in_good_order(
    api: SyncPrefectClient, deployment: UUID, real_redis: redis.Redis
) -> None:
    with Running(api, deployment, watched) as run:
        wait_until(lambda: is_pumping(real_redis), "pushes")
        wait_until(is_heard(real_redis, run), "a look at Prefect's server")
        api.pause_deployment(deployment)
        state = run.ended().state
    assert state
    assert (state.type, state.name) == (StateType.COMPLETED, "Paused")
    assert "its schedule was paused" in str(state.message)


def test_a_run_that_was_cancelled_ends_as_that(
    api: SyncPrefectClient, deployment: UUID, real_redis: redis.Redis
) -> None:
    with Running(api, deployment, watched) as run:
        wait_until(lambda: is_pumping(real_redis), "pushes")
        api.set_flow_run_state(run.id, Cancelling(), force=True)
        assert run.ended().state_type == StateType.CANCELLED


def test_a_run_whose_deployment_was_deleted_ends(
    api: SyncPrefectClient, deployment: UUID, real_redis: redis.Redis
) -> None:
    with Running(api, deployment, watched) as run:
        wait_until(is_heard(real_redis, run), "a look at Prefect's server")
        api.delete_deployment(deployment)
        wait_until(lambda: run.is_over, "the end of the run")


def requested(api: SyncPrefectClient, deployment: UUID, run: Running) -> list[dict[str, Any]]:
    """Return the deployment's runs except scheduled ones and the current one."""
    body = {"deployments": {"id": {"any_": [str(deployment)]}}}
    found = api.request("POST", "/flow_runs/filter", json=body).json()
    return [one for one in found if one["id"] != str(run.id) and not one["auto_scheduled"]]


def test_a_changed_deployment_brings_a_run_that_relieves_the_one_under_way(
    api: SyncPrefectClient, deployment: UUID, real_redis: redis.Redis
) -> None:
    with Running(api, deployment, watched, n=4) as run:
        wait_until(is_heard(real_redis, run), "a look at Prefect's server")
        api.update_deployment(deployment, DeploymentUpdate(entrypoint="b.py:watched"))
        wait_until(lambda: requested(api, deployment, run), "a run that relieves this one")
        (successor,) = requested(api, deployment, run)
        assert successor["parameters"] == {"n": 4}
        assert not run.is_over
        with Running(api, deployment, watched, n=4):
            assert run.ended().state_type == StateType.COMPLETED
    assert logging.getLogger("tasks").propagate  # two overlapping runs in one process restore it


def test_changed_parameters_end_the_run_and_start_one_with_them(
    api: SyncPrefectClient, deployment: UUID, real_redis: redis.Redis
) -> None:
    with Running(api, deployment, watched) as run:
        wait_until(is_heard(real_redis, run), "a look at Prefect's server")
        api.update_deployment(deployment, DeploymentUpdate(parameters={"n": 5}))
        state = run.ended().state
        assert state
        assert "its schedule was changed" in str(state.message)
    (successor,) = requested(api, deployment, run)
    assert successor["parameters"] == {"n": 5}


def test_a_run_whose_polls_redis_refuses_warns_once_and_continues_to_poll(
    api: SyncPrefectClient,
    deployment: UUID,
    real_redis: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inlet_watch, "_MINUTE", 0.0)
    odd = shared_poll.SharedPoll(real_redis, name="any")._runs
    real_redis.set(odd, "of another type")
    run = api.read_flow_run(api.create_flow_run_from_deployment(deployment).id)
    watch = inlet_watch.InletWatch("watched", stop=threading.Event(), log=logging.getLogger("test"), run=run)
    looks: list[int] = []
    with watch.every_minute(lambda: looks.append(1)):
        wait_until(lambda: len(looks) > 2, "three looks")
        real_redis.delete(odd)
        wait_until(lambda: real_redis.exists(odd), "a look that succeeds")
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "does not notice a pause of its schedule" in warning
    assert "WRONGTYPE" in warning


def test_unchanged_deployment_starts_no_run(api: SyncPrefectClient, deployment: UUID, real_redis: redis.Redis) -> None:
    with Running(api, deployment, watched) as run:
        wait_until(is_heard(real_redis, run), "a look at Prefect's server")
        before = api.read_deployment(deployment).updated
        api.update_deployment(deployment, DeploymentUpdate(version="another", description="of the same"))
        assert api.read_deployment(deployment).updated != before
        api.update_deployment(deployment, DeploymentUpdate(entrypoint="b.py:watched"))
        wait_until(lambda: requested(api, deployment, run), "a run for the second change")
        assert len(requested(api, deployment, run)) == 1


def test_a_deploy_of_an_edited_file_brings_a_run(
    api: SyncPrefectClient, deployment: UUID, real_redis: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "edited_flow.py"
    file.write_text("text = 'before'\n")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("edited_flow")
    with Running(api, deployment, watched) as run:
        wait_until(is_heard(real_redis, run), "a look at Prefect's server")
        file.write_text("text = 'after it was edited'\n")
        api.update_deployment(deployment, DeploymentUpdate(version="another"))
        wait_until(lambda: requested(api, deployment, run), "a run with the edited file")


def test_runs_with_different_parameters_on_one_topic_warn_once_each(
    api: SyncPrefectClient, deployment: UUID, real_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    def logged_lines() -> list[str]:
        return [line.getMessage() for line in caplog.records if "pumps into it too" in line.getMessage()]

    with Running(api, deployment, watched) as scheduled:
        wait_until(lambda: is_pumping(real_redis), "pushes")
        with Running(api, deployment, watched, n=4) as custom:
            wait_until(lambda: len(logged_lines()) == 2, "a warning in each log")
            looks = real_redis.info("commandstats")["cmdstat_hkeys"]["calls"]  # type: ignore[index]
            wait_until(
                lambda: real_redis.info("commandstats")["cmdstat_hkeys"]["calls"] > looks + 4,  # type: ignore[index]
                "both to look again",
            )
    names = [api.read_flow_run(run.id).name for run in (scheduled, custom)]
    assert [name in line for name, line in zip(names, logged_lines(), strict=True)] == [True, True]
    assert all("another value of n, so" in line for line in logged_lines())


def test_run_continues_after_its_window_while_prefect_is_silent(
    api: SyncPrefectClient, deployment: UUID, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inlet_watch, "_UNKNOWN", 0.2)
    stop = threading.Event()
    flow_run = api.read_flow_run(api.create_flow_run_from_deployment(deployment).id)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{refusing_port()}/api"}):
        watch = inlet_watch.InletWatch("watched", stop=stop, log=None, run=flow_run)
        assert not watch.goes_on()  # no answer has arrived yet
        wait_until(watch.goes_on, "the silence of Prefect's server", deadline=5)
    monkeypatch.setattr(inlet_watch, "_LONGEST", 0.1)
    assert not watch.goes_on()


def test_a_watch_outlives_a_redis_outage_and_failures_of_its_tasks(
    api: SyncPrefectClient,
    deployment: UUID,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(inlet_watch, "_UNKNOWN", 0.3)
    monkeypatch.setattr(inlet_watch, "_MINUTE", 0.1)
    monkeypatch.setenv("SLUICE_REDIS_URL", f"redis://127.0.0.1:{refusing_port()}/0")
    stop = threading.Event()
    run = api.read_flow_run(api.create_flow_run_from_deployment(deployment).id)
    watch = inlet_watch.InletWatch("watched", stop=stop, log=logging.getLogger("test"), run=run)
    failing = threading.Event()

    def fail() -> None:
        failing.set()
        raise ZeroDivisionError

    with watch.every_minute(fail):
        wait_until(lambda: "no news from Prefect's server" in caplog.text, "a warning that nothing is heard")
        monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
        assert failing.wait(20)
        wait_until(lambda: "the watch beside this run failed" in caplog.text, "a warning of the failure")
        api.delete_deployment(deployment)
        assert stop.wait(20)
    assert watch.why == "its deployment was deleted"
