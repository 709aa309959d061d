"""A killed server loses up to two seconds of writes: the effects on results."""

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
    """Append an entry's result like `.to_redis`: under its record, and fenced by the consumer's lease."""
    made_of = [type("Made", (), {"topic": "topic", "id": entry_id})()]
    reservoir.append(
        "results",
        reservoir.encode([{"of": entry_id}]),
        record=result_record("group", "topic", entry_id),
        field=result_name(made_of, into="results", node="to_redis", ordinal=0),
        fence=reader.membership.fence,
    )


def test_server_that_loses_a_read_entry_can_double_its_result(tmp_path: Path) -> None:
    """The limit in docs/guarantees.md, at its worst moment: both the push's reply and the server's copy are lost.

    With `appendfsync everysec`, Redis replies before it has written commands that arrive during a sync.
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
            reservoir.append("topic", encoded, record="sluice:push:1")  # the client sends it again
            append_result(reservoir, reader, first.origin[1])  # its retries continue until the server answers
            client.connection_pool.disconnect()
            [again] = Consumer(client, "topic", "group").step(0)
            assert again.origin != first.origin
            append_result(reservoir, reader, again.origin[1])
            assert (pusher.xlen("topic"), pusher.xlen("results")) == (1, 2)


def test_result_is_appended_once_if_the_server_loses_only_the_acknowledgement(tmp_path: Path) -> None:
    """A result is written together with its record, so that a repeated append finds it whatever else is lost."""
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
