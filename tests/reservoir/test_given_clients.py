"""Clients passed by users: any redis-py client works, whatever its options and transport."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis
import redis.asyncio
from redis.sentinel import Sentinel
from streamz import Stream

from deployments.servers.child import Child
from deployments.servers.redis_binary import find_redis_server
from deployments.servers.redis_server import RedisServer
from tasks import Reservoir, SettingsError
from tests.support.ports import reserve_port
from tests.support.streams import pending, push_all
from tests.support.waiting import wait_until

OPTIONS: list[dict[str, Any]] = [
    {},
    {"protocol": 2},
    {"protocol": 3},
    {"protocol": 2, "decode_responses": True},
    {"protocol": 3, "decode_responses": True},
    {"protocol": 2, "legacy_responses": False},
    {"protocol": 3, "legacy_responses": False},
    {"encoding": "utf-16"},
    {"socket_timeout": 0.01, "socket_connect_timeout": None},
]
Served = Callable[..., redis.Redis]


def listening(folder: Path, port: int, *options: str) -> Child:
    """Start a Redis, or a Sentinel, on a port of this machine."""
    command = [
        str(find_redis_server().path),
        *options,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(folder),
    ]
    server = Child("Redis", command, log=folder / f"{port}.log", tied=True)
    server.start()
    client = redis.Redis(port=port, protocol=2)
    wait_until(lambda: server.running and answers(client), f"a server on port {port}")
    client.close()
    return server


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture(scope="module")
def tcp_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = reserve_port()
    server = listening(tmp_path_factory.mktemp("tcp"), port, "--save", "")
    yield port
    server.stop(grace=5)


@pytest.fixture(scope="module")
def sentinel_port(tmp_path_factory: pytest.TempPathFactory, tcp_port: int) -> Iterator[int]:
    folder, port = tmp_path_factory.mktemp("sentinel"), reserve_port()
    (folder / "sentinel.conf").write_text(f"sentinel monitor reservoir 127.0.0.1 {tcp_port} 1\n")
    sentinel = listening(folder, port, str(folder / "sentinel.conf"), "--sentinel")
    yield port
    sentinel.stop(grace=5)


@pytest.fixture(params=["unix", "tcp", "url", "blocking pool", "small pool", "one connection", "sentinel"])
def served(
    request: pytest.FixtureRequest, redis_server: RedisServer, tcp_port: int, sentinel_port: int
) -> Iterator[Served]:
    """Return a function that creates a client of an empty Redis with given options, over one of redis-py's transports."""
    made: list[redis.Redis] = []

    def client(**options: Any) -> redis.Redis:
        one: dict[str, Callable[[], redis.Redis]] = {
            "unix": lambda: redis.Redis(unix_socket_path=str(redis_server.socket), **options),
            "tcp": lambda: redis.Redis(port=tcp_port, **options),
            "url": lambda: redis.Redis.from_url(f"redis://127.0.0.1:{tcp_port}/0", **options),
            "blocking pool": lambda: redis.Redis(
                connection_pool=redis.BlockingConnectionPool(max_connections=1, timeout=1, port=tcp_port, **options)
            ),
            "small pool": lambda: redis.Redis(port=tcp_port, max_connections=1, **options),
            "one connection": lambda: redis.Redis(port=tcp_port, single_connection_client=True, **options),
            "sentinel": lambda: Sentinel([("127.0.0.1", sentinel_port)]).master_for("reservoir", **options),
        }
        made.append(one[request.param]())
        return made[-1]

    flushing = client(protocol=2)
    flushing.flushall()
    yield client
    flushing.flushall()
    for each in made:
        each.close()
        each.connection_pool.disconnect()


def check_every_use(client: redis.Redis) -> None:
    """Use a client to push, read, push results, peek, follow and show levels."""
    reservoir = Reservoir(client)
    ids = [reservoir.push("topic", {"n": n}) for n in range(3)]
    source = Stream.from_redis("topic", group="group", client=client)
    source.pluck("n").map(lambda n: {"n": n}).to_redis("results")
    source.start()
    wait_until(lambda: len(reservoir.peek("results", 9)) == 3, "the results")
    source.stop()
    source.join(20)
    assert [entry["n"] for entry in reservoir.peek("results", 9)] == [0, 1, 2]
    assert [entry.id for entry in reservoir.follow("topic", ids[0], n=9, block_ms=5)] == ids[1:]
    assert reservoir.follow("topic", ids[-1], n=9, block_ms=50) == []
    assert [group.lag for level in reservoir.levels() for group in level.groups] == [0]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_client_of_any_transport_pool_protocol_and_decoding_works(served: Served, options: Any) -> None:
    client = served(**options)
    check_every_use(client)
    assert client.get_encoder().decode_responses is options.get("decode_responses", False), "it is as it was"


@pytest.mark.parametrize("options", [{}, {"protocol": 2}, {"protocol": 3, "decode_responses": True}], ids=str)
@pytest.mark.parametrize("kind", [fakeredis.FakeRedis, fakeredis.FakeStrictRedis])
def test_fakeredis_client_of_any_protocol_works(kind: Any, options: Any) -> None:
    check_every_use(kind(**options))


@pytest.mark.parametrize("protocol", [2, 3])
def test_client_keeps_its_username_name_and_database(tcp_port: int, protocol: int) -> None:
    with redis.Redis(port=tcp_port, protocol=2) as admin:
        admin.execute_command("ACL", "SETUSER", "pusher", "on", ">word", "~*", "&*", "+@all")
        with redis.Redis(
            port=tcp_port, protocol=protocol, username="pusher", password="word", client_name="mine", db=3
        ) as client:
            ours = Reservoir(client).client
            assert (ours.acl_whoami(), ours.client_getname(), ours.client_info()["db"]) == ("pusher", "mine", 3)
        admin.acl_deluser("pusher")


@pytest.mark.parametrize(
    ("client", "kind"),
    [(redis.asyncio.Redis(), "redis.asyncio.client.Redis"), ("redis://host", "builtins.str")],
)
def test_object_other_than_a_client_of_one_server_is_refused(client: Any, kind: str) -> None:
    for use in (lambda: Reservoir(client), lambda: Stream.from_redis("topic", group="group", client=client)):
        with pytest.raises(SettingsError, match=f"expected a redis.Redis .*, got {kind}; clusters and asyncio"):
            use()


class LosesTheFirstRead(redis.UnixDomainSocketConnection):
    """A connection that breaks after the reply to a group's first read."""

    left = 1

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        self.is_read = str(args[0]).startswith("XREADGROUP")
        super().send_command(*args, **kwargs)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        reply = super().read_response(*args, **kwargs)
        if self.is_read and LosesTheFirstRead.left:
            LosesTheFirstRead.left -= 1
            self.disconnect()
            msg = "the reply was lost"
            raise redis.ConnectionError(msg)
        return reply


def test_client_with_retries_skips_no_entry_when_a_read_reply_is_lost(
    redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LosesTheFirstRead, "left", 1)
    push_all(real_redis, "topic", range(20))
    pool = redis.ConnectionPool(connection_class=LosesTheFirstRead, path=redis_server.url.removeprefix("unix://"))
    source = Stream.from_redis("topic", group="group", client=redis.Redis(connection_pool=pool))
    seen = source.pluck("n").sink_to_list()
    source.start()
    wait_until(lambda: len(seen) == 20, "all of them")
    source.stop()
    source.join(20)
    assert not LosesTheFirstRead.left
    assert seen == list(range(20))
    assert pending(real_redis) == []
    pool.disconnect()
