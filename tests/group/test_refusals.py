"""Servers that refuse commands for a while: the consumer waits and loses no entry."""

import threading
from contextlib import suppress
from typing import Any

import pytest
import redis

from deployments.servers.redis_server import RedisServer
from tasks.group.consumer import Consumer
from tasks.nodes.from_redis import from_redis
from tasks.reservoir.connection import is_outage
from tasks.reservoir.outages import Outages
from tests.support.streams import at_work, consumer, dead, pending, push_all, read_all
from tests.support.waiting import wait_until


def test_dead_letter_that_a_full_server_refuses_is_appended_later(real_redis: redis.Redis) -> None:
    client: Any = real_redis
    successor = consumer(client, max_deliveries=1)
    successor.step(0)
    ids = push_all(client, "topic", range(3))
    victim = consumer(client)
    read_all(victim)
    client.delete(victim.membership.fence.lease)
    successor._next_claim = 0.0
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.RedisError) as refused:
            read_all(successor)
        assert is_outage(refused.value)
    finally:
        client.config_set("maxmemory", 0)
    assert read_all(successor) == []
    assert [letter["dead:id"] for letter in dead(client)] == ids
    assert pending(client) == []


def test_full_server_is_still_read(real_redis: redis.Redis) -> None:
    client: Any = real_redis
    one = consumer(client)
    one.step(0)
    ids = push_all(client, "topic", range(3))
    one._next_claim = 0.0
    client.config_set("maxmemory", 1)
    try:
        assert [entry.id for entry in read_all(one)] == ids
        assert one.ack("topic", ids) == 3
    finally:
        client.config_set("maxmemory", 0)


def test_consumer_waits_for_a_server_that_is_busy_with_a_script(real_redis: redis.Redis) -> None:
    client: Any = real_redis
    one = consumer(client)
    one.step(0)
    [id_] = push_all(client, "topic", [1])
    threshold = client.config_get("lua-time-limit")["lua-time-limit"]
    client.config_set("lua-time-limit", 1)

    def run_for_long() -> None:
        with suppress(redis.ResponseError):  # when it is killed
            client.eval("while true do end", 0)

    busy = threading.Thread(target=run_for_long)
    busy.start()
    try:
        wait_until(lambda: is_busy(client), "a busy server")
        with pytest.raises(redis.RedisError) as refused:
            one.step(0)
        assert is_outage(refused.value)
    finally:
        client.script_kill()
        busy.join()
        client.config_set("lua-time-limit", threshold)
    assert [entry.id for entry in read_all(one)] == [id_]


def is_busy(client: Any) -> bool:
    try:
        return not client.ping()
    except redis.ResponseError:
        return True


def test_consumer_waits_for_a_server_without_its_replicas_or_master(real_redis: redis.Redis) -> None:
    client: Any = real_redis
    [id_] = push_all(client, "topic", [1])
    one = consumer(client)
    client.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(redis.RedisError) as no_replicas:
            one.step(0)
        client.config_set("replica-serve-stale-data", "no")
        client.replicaof("127.0.0.1", 1)
        with pytest.raises(redis.RedisError) as no_master:
            one.step(0)
        assert is_outage(no_replicas.value)
        assert is_outage(no_master.value)
    finally:
        client.replicaof("no", "one")
        client.config_set("replica-serve-stale-data", "yes")
        client.config_set("min-replicas-to-write", 0)
    assert [entry.id for entry in read_all(one)] == [id_]


def test_consumer_waits_after_a_password_change_and_names_the_cause(
    redis_server: RedisServer, real_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client: Any = real_redis
    client.acl_setuser("reader", enabled=True, passwords="+one", commands=["+@all"], keys=["*"])
    with redis.Redis.from_url(redis_server.url, username="reader", password="one", protocol=2) as reader:
        reader.ping()
        client.acl_setuser("reader", enabled=True, passwords=["-one", "+another"])
        client.client_kill_filter(user="reader")
        pauses: list[float] = []
        outages = Outages("group", longest_pause=9.0, wait=pauses.append)
        assert not outages.pass_through(reader.ping)
        client.acl_setuser("reader", enabled=True, passwords="+one")
        assert outages.pass_through(reader.ping)
    client.acl_deluser("reader")
    assert [record.getMessage() for record in caplog.records] == [
        "Redis refuses the user or password; group 'group' tries again until it answers",
        "Redis answers again; group 'group' continues",
    ]
    assert len(pauses) == 1


def test_entries_read_before_another_topics_group_was_deleted_are_returned(client: redis.Redis) -> None:
    bounded = Consumer(client, ["one", "two"], "group", until="9999999999999-0")
    bounded.step(0)
    ids = push_all(client, "one", range(3))
    client.xgroup_destroy("two", "group")
    assert [entry.id for entry in read_all(bounded)] == ids


@pytest.mark.parametrize("key", ["sluice:groups:topic", "topic:retry:group", "topic:dead:group"])
def test_consumer_names_a_key_of_another_type_and_waits(
    redis_server: RedisServer, real_redis: redis.Redis, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    client: Any = real_redis
    at_work(client, "group")
    source: Any = from_redis("topic", group="group", url=redis_server.url, lease="300ms")
    seen = source.map(lambda entry: 1 / entry["n"]).sink_to_list()
    source.start()
    with client.pipeline() as pipe:  # the consumer may have created the key by now
        pipe.delete(key).rpush(key, "not ours").execute()
    push_all(client, "topic", [0, 1])
    wait_until(lambda: f"at key {key!r}, got a list" in caplog.text, "a word about the key")
    assert "group 'group' tries again until it can continue" in caplog.text
    client.delete(key)
    push_all(client, "topic", [2])
    wait_until(lambda: seen == [1, 0.5] and not pending(client), "the rest")
    assert [letter["n"] for letter in dead(client)] == [0]
    source.stop()
    source.join(20)


def test_consumer_waits_while_a_right_is_missing(
    redis_server: RedisServer, real_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """As while an administrator sets up a user again, command by command."""
    client: Any = real_redis
    client.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">one", "~*", "+@all")
    with redis.Redis.from_url(redis_server.url, username="reader", password="one", protocol=2) as reader:
        source: Any = from_redis("topic", group="group", client=reader, lease="300ms")
        seen = source.map(lambda entry: entry["n"]).sink_to_list()
        source.start()
        push_all(client, "topic", [1])
        wait_until(lambda: seen == [1], "the first entry")
        client.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">one")
        wait_until(lambda: "the rights that docs/redis.md lists" in caplog.text, "a word about the rights")
        push_all(client, "topic", [2])
        client.execute_command("ACL", "SETUSER", "reader", "~*", "+@all")
        wait_until(lambda: seen == [1, 2], "the second entry")
        source.stop()
        source.join(20)
    client.acl_deluser("reader")
    assert "Redis answers again; group 'group' continues" in caplog.text
