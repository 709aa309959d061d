"""Servers and clients for the tests, and how thorough the property tests are.

`CI=true` chooses the thorough hypothesis profile; `--hypothesis-profile=...` overrides it.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
import redis
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from deployments.redis_server import RedisServer
from tasks import reservoir, testing

if TYPE_CHECKING:
    from tests.plain import Plain

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


class OneStack(LoadFileScheduling):
    """Gives the tests of one file to one process, and what needs the stack `plain` to one as well."""

    def _split_scope(self, nodeid: str) -> str:
        return super()._split_scope(nodeid).replace("test_browser.py", "test_end_to_end.py")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return OneStack(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="FOLDER", help="where the browser tests put what the documents show")


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
def prefect() -> Iterator[None]:
    """Give all that follows a real Prefect server, which takes 10 s to start; flow calls are quick with these settings."""
    from prefect.settings import (
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    quiet = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}
    # 30 s are not enough on a machine that is busy with other things.
    with prefect_test_harness(server_startup_timeout=120), temporary_settings(quiet):
        yield


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


@pytest.fixture(scope="session", params=["fake", "real"])
def fresh_client(request: pytest.FixtureRequest) -> Iterator[Callable[[], redis.Redis]]:
    """Return a function that gives an empty Redis: one for each example of a property test.

    What it gave before must not be used afterwards: on the real server it is the same one, flushed.
    Of session scope, because hypothesis rightly refuses fixtures that it cannot renew between examples.
    """
    if request.param == "fake":
        yield testing.fake_redis
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    with redis.Redis.from_url(server.url, protocol=2) as client:

        def flushed() -> redis.Redis:
            client.flushall()
            return client

        yield flushed


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Plain]":
    """Return a Prefect server and a worker, which take most of a minute to start: `OneStack` sees to it that one is enough.

    They have a Redis to themselves: what tests have started there goes on for a while, beside the tests that follow.
    """
    from tests.plain import Plain

    folder = tmp_path_factory.mktemp("plain")
    with RedisServer(folder / "redis") as reservoir, Plain(folder, reservoir) as stack:
        yield stack


@pytest.fixture(scope="session")
def levels_run(plain: "Plain") -> UUID:
    """Return a run of `levels`, with a group that lags and another that did in the hours before."""
    from tests.plain import run_levels

    return run_levels(plain)
