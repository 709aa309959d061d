"""A server that is killed forgets what it had not written yet, up to two seconds of it: what that can do to a result."""

import shutil
from pathlib import Path

import redis

from deployments.servers.redis_server import RedisServer
from tasks.group.consumer import Consumer
from tasks.reservoir import Reservoir
from tasks.reservoir.connection import connect
from tasks.reservoir.keys import result_record
from tasks.reservoir.results import result_name


def append_result(reservoir: Reservoir, reader: Consumer, entry_id: str) -> None:
    """Append the result of an entry as `.to_redis` does, by a living consumer and once."""
    made_of = [type("Made", (), {"topic": "topic", "id": entry_id})()]
    reservoir.append(
        "results",
        reservoir.encode([{"of": entry_id}]),
        record=result_record("group", "topic", entry_id),
        field=result_name(made_of, into="results", node="to_redis", ordinal=0),
        fence=reader.membership.fence,
    )


def test_a_server_that_forgets_an_entry_which_was_read_can_double_its_result(tmp_path: Path) -> None:
    """The limit in docs/guarantees.md, with the moments chosen: the push's reply is lost, and so is what the server had of it.

    With `appendfsync everysec` Redis answers before it has written what comes during a sync.
    """
    with RedisServer(tmp_path / "redis") as server:
        with connect(server.url) as client:
            Consumer(client, "topic", "group").step(0)
        server.stop()
        shutil.copytree(server.folder, tmp_path / "before", ignore=shutil.ignore_patterns("*.sock"))
        server.start()
        with connect(server.url, retries=0) as client, connect(server.url) as pusher:
            reservoir = Reservoir(pusher)
            encoded = reservoir.encode([{"n": 1}])
            reservoir.append("topic", encoded, record="sluice:push:1")  # the reply is lost
            reader = Consumer(client, "topic", "group")
            [first] = reader.step(0)
            server.kill()
            shutil.rmtree(server.folder)
            shutil.copytree(tmp_path / "before", server.folder)
            server.start()
            assert not pusher.xlen("topic")
            reservoir.append("topic", encoded, record="sluice:push:1")  # so it is sent again
            append_result(reservoir, reader, first.origin[1])  # was on its way, and is tried until the server answers
            client.connection_pool.disconnect()
            [again] = Consumer(client, "topic", "group").step(0)
            assert again.origin != first.origin
            append_result(reservoir, reader, again.origin[1])
            assert (pusher.xlen("topic"), pusher.xlen("results")) == (1, 2)


def test_a_result_is_appended_once_where_the_server_forgets_only_that_its_entry_is_done(tmp_path: Path) -> None:
    """The record of a result is written with it: whatever else is forgotten, the result is found when it is made again."""
    with RedisServer(tmp_path / "redis") as server:
        with connect(server.url, retries=0) as client:
            reservoir = Reservoir(client)
            id_ = reservoir.push("topic", {"n": 1})
            reader = Consumer(client, "topic", "group")
            reader.step(0)
            append_result(reservoir, reader, id_)
        server.stop()
        shutil.copytree(server.folder, tmp_path / "before", ignore=shutil.ignore_patterns("*.sock"))
        server.start()
        with connect(server.url, retries=0) as client:
            forgotten: redis.Redis = client
            forgotten.xack("topic", "group", id_)
            server.kill()
            shutil.rmtree(server.folder)
            shutil.copytree(tmp_path / "before", server.folder)
            server.start()
            client.connection_pool.disconnect()
            append_result(Reservoir(client), reader, id_)
            assert client.xlen("results") == 1
