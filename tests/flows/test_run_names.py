"""Names of runs, on a real Prefect server."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
import redis
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.states import Scheduled
from prefect.utilities.names import generate_slug
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from flows import inlet, outlet
from flows.runtime.run_names import named_after, run_name

pytestmark = pytest.mark.usefixtures("prefect")


@pytest.fixture(autouse=True)
def reservoir(redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    assert real_redis.ping()
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)


@inlet(topic="named", every=None)
def reading(group: str = "of the user's own") -> dict[str, str]:
    """Return an entry."""
    return {"group": group}


@outlet(topics="named", group="counted")
def counted(source: Stream) -> Stream:
    """Return all."""
    return source


@flow(flow_run_name=named_after("moved"), persist_result=False)
def moved(group: str) -> str:
    """Return the group."""
    return group


def name_of_run(made: object, *, name: str, **parameters: object) -> str:
    """Run a flow that was due at 21:30 of the local zone under a name; return its name afterwards."""
    due = datetime(2026, 1, 2, 21, 30).astimezone()
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(made, parameters=parameters, state=Scheduled(scheduled_time=due), name=name)  # type: ignore[arg-type]
        assert run.name == name
        run_flow(made, flow_run=run, parameters=parameters)  # type: ignore[arg-type]
        return client.read_flow_run(run.id).name


def test_run_is_named_after_its_flow_and_local_start() -> None:
    assert name_of_run(reading, name=generate_slug(2)) == "reading 21:30"


def test_run_with_another_group_is_named_after_it() -> None:
    assert name_of_run(counted, name=generate_slug(2), until="now", group="counted") == "counted 21:30"
    again = {"until": "now", "group": f"counted-{uuid4().hex[:4]}", "drop_group": True}
    assert name_of_run(counted, name=generate_slug(2), **again) == f"{again['group']} 21:30"


def test_parameter_named_group_of_another_flow_does_not_name_its_run() -> None:
    assert name_of_run(moved, name=generate_slug(2), group="movers") == "moved 21:30"


def test_name_that_a_user_gave_to_a_run_stays() -> None:
    assert name_of_run(reading, name="backfill of March") == "backfill of March"


def test_name_of_a_run_has_the_present_time_by_default() -> None:
    before = datetime.now(UTC).astimezone()
    assert run_name("quotes") in {f"quotes {time:%H:%M}" for time in (before, datetime.now(UTC).astimezone())}
