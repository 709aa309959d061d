"""Appends that Redis refuses halfway: entry and record exist together or not at all, and the error names the key."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from deployments.servers.redis_server import RedisServer
from tasks import Reservoir
from tasks.group.dead_letter_limits import DeadLetterLimits
from tasks.group.dead_letters import DeadLetters
from tasks.reservoir.connection import is_outage
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import TopicKeys, topic_keys
from tasks.reservoir.reservoir import LARGE
from tests.support.streams import consumer, dead, pending, push_all, read_all, run

Fresh = Callable[[], redis.Redis]

MAX_ID = "18446744073709551615-18446744073709551615"
WAYS = {"small": [{b"n": b"1"}], "several": [{b"n": b"1"}] * 3, "large": [{b"n": b"x" * LARGE}]}
# All commands of an append except those that it must run before it writes anything.
COMMANDS = (
    "xadd",
    "xdel",
    "xgroup",
    "xtrim",
    "xlen",
    "set",
    "hset",
    "hincrby",
    "hget",
    "zadd",
    "zcard",
    "pexpire",
    "eval",
)


def put(client: Any, key: str, kind: str) -> None:
    """Replace a key by a value of type `kind`."""
    client.delete(key)
    match kind:
        case "string":
            client.set(key, "of another program")
        case "hash":
            client.hset(key, "a", "b")
        case "zset":
            client.zadd(key, {"a": 1})
        case "list":
            client.rpush(key, "a")
        case _:
            client.xadd(key, {"a": "b"})


def tried(append: Callable[[], list[str] | None]) -> tuple[list[str], str]:
    """Return the ids of an append and '', or no ids and the text of its refusal."""
    try:
        return append() or [], ""
    except redis.ResponseError as error:
        return [], str(error)


def length_and_record(client: Any, record: str) -> tuple[int, Any]:
    """Return the topic's length, and the value of the append's record."""
    length = client.xlen("topic") if client.type("topic") in (b"stream", b"none") else 0
    return length, client.get(record) if client.type(record) == b"string" else None


@pytest.mark.odd_keys
@given(
    before=st.integers(0, 70),
    way=st.sampled_from(sorted(WAYS)),
    what=st.sampled_from([*TopicKeys._fields, "record"]),
    kind=st.sampled_from(["string", "hash", "zset", "list", "stream"]),
    keep=st.sampled_from([None, "5", "5, 2KB", "1h"]),
    when_full=st.sampled_from(["spill", "wait"]),
    has_group=st.booleans(),
)
def test_append_refused_by_a_key_type_leaves_entry_and_record_or_neither(
    fresh_client: Fresh, *, before: int, way: str, what: str, kind: str, keep: Any, when_full: Any, has_group: bool
) -> None:
    client: Any = fresh_client()
    reservoir, record = Reservoir(client), "sluice:push:x"
    kept = None if keep is None else Keep.of(keep, when_full)
    push_all(client, "topic", range(before))
    if has_group:
        client.xgroup_create("topic", "group", "$", mkstream=True)
    key = record if what == "record" else getattr(topic_keys("topic"), what)
    put(client, key, kind)
    length, _ = length_and_record(client, record)
    append = functools.partial(reservoir.append, "topic", WAYS[way], record=record, keep=kept)
    ids, refusal = tried(append)
    if refusal:
        assert repr(key) in refusal
        assert length_and_record(client, record)[0] == length
        assert client.type(record) == b"none" or what == "record"
        client.delete(key)
        if what == "topic":
            length = 0
        ids, _ = tried(append)
    if kept is None and ids:
        expected = length + len(WAYS[way])
        assert length_and_record(client, record) == (expected, f"={' '.join(ids)}".encode())
    assert append() == ids
    groups = [each["name"] for each in client.xinfo_groups("topic")]
    assert groups in ([], [b"group"])


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("command", COMMANDS)
def test_append_refused_by_an_acl_leaves_entry_and_record_or_neither(
    redis_server: RedisServer, real_redis: redis.Redis, command: str, way: str
) -> None:
    admin: Any = real_redis
    push_all(admin, "topic", range(3))
    admin.acl_setuser("pusher", enabled=True, passwords="+one", commands=["+@all"], keys=["*"])
    with redis.Redis.from_url(redis_server.url, username="pusher", password="one", protocol=2) as client:
        reservoir = Reservoir(client)
        reservoir.push("topic", {"n": 0})
        admin.acl_setuser("pusher", enabled=True, commands=[f"-{command}"])
        kept = Keep.of("1")
        [newest] = reservoir.peek("topic")
        append = functools.partial(reservoir.append, "topic", WAYS[way], record="sluice:push:x", keep=kept)
        for _ in range(3):
            ids, refusal = tried(append)
            assert admin.get("sluice:push:x") == (None if refusal else f"={' '.join(ids)}".encode())
            assert len(admin.xrange("topic", f"({newest.id}")) == len(ids)
            assert "docs/redis.md" in refusal or not refusal
            assert admin.xinfo_groups("topic") == []
        admin.acl_setuser("pusher", enabled=True, commands=["+@all"])
        ids = append()
        assert append() == ids
        assert len(admin.xrange("topic", f"({newest.id}")) == len(ids)
    admin.acl_deluser("pusher")


@pytest.mark.parametrize("way", sorted(WAYS))
def test_topic_whose_last_id_is_the_largest_refuses_appends(client: Any, way: str) -> None:
    before = MAX_ID[:-1] + ("4" if way == "several" else "5")  # several: the first one would still fit
    client.xadd("topic", {"a": "b"}, id=before)
    reservoir = Reservoir(client)
    for _ in range(2):
        with pytest.raises(redis.ResponseError, match="topic 'topic': nothing was pushed; the last id of 'topic'"):
            reservoir.append("topic", WAYS[way], record="sluice:push:x")
        assert client.xlen("topic") == 1
        assert not client.exists("sluice:push:x")


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("before", [0, 3])
def test_server_without_memory_stores_neither_entry_nor_record(real_redis: redis.Redis, before: int, way: str) -> None:
    client: Any = real_redis
    push_all(client, "topic", range(before))
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.RedisError) as refused:
            Reservoir(client).append("topic", WAYS[way], record="sluice:push:x", keep=1)
        assert is_outage(refused.value)
    finally:
        client.config_set("maxmemory", 0)
    assert client.xlen("topic") == before
    assert not client.exists("sluice:push:x")


def fail_all(client: Any, values: range) -> None:
    """Push entries, and let the group's pipeline fail on each."""
    push_all(client, "topic", values)
    run(lambda source: source.pluck("missing").sink(print), client)


@pytest.mark.parametrize("command", ["xadd", "hset", "hincrby", "pexpire", "xtrim", "xack"])
def test_refused_dead_letter_is_not_added_and_its_entry_stays_pending(
    redis_server: RedisServer, real_redis: redis.Redis, command: str
) -> None:
    admin: Any = real_redis
    fail_all(admin, range(2))
    [id_] = push_all(admin, "topic", [2])
    admin.acl_setuser("reader", enabled=True, passwords="+one", commands=["+@all"], keys=["*"])
    with redis.Redis.from_url(redis_server.url, username="reader", password="one", protocol=2) as client:
        one = consumer(client)
        assert [entry.id for entry in read_all(one)] == [id_]
        admin.acl_setuser("reader", enabled=True, commands=[f"-{command}"])
        for _ in range(2):
            with pytest.raises(redis.ResponseError):
                one.membership.dead_letter("topic", id_, {"dead:node": "node"}, keep=DeadLetterLimits(1))
            assert len(dead(admin)) == 2
            assert pending(admin) == [id_]
        admin.acl_setuser("reader", enabled=True, commands=["+@all"])
        assert one.membership.dead_letter("topic", id_, {"dead:node": "node"}, keep=DeadLetterLimits(100))
    admin.acl_deluser("reader")
    assert [letter["dead:id"] for letter in dead(admin)][2:] == [id_]
    assert pending(admin) == []


@pytest.mark.odd_keys
def test_dead_letter_whose_drops_cannot_be_counted_is_not_added(client: Any) -> None:
    fail_all(client, range(3))
    [id_] = push_all(client, "topic", [3])
    one = consumer(client)
    read_all(one)
    put(client, "sluice:spilled:topic", "string")
    with pytest.raises(redis.ResponseError):
        one.membership.dead_letter("topic", id_, {"dead:node": "node"}, keep=DeadLetterLimits(1))
    assert len(dead(client)) == 3
    assert pending(client) == [id_]


@pytest.mark.parametrize("command", ["xadd", "xdel", "set"])
def test_refused_replay_leaves_the_letter_in_place(
    redis_server: RedisServer, real_redis: redis.Redis, command: str
) -> None:
    admin: Any = real_redis
    fail_all(admin, range(3))
    admin.acl_setuser("reader", enabled=True, passwords="+one", commands=["+@all"], keys=["*"])
    with redis.Redis.from_url(redis_server.url, username="reader", password="one", protocol=2) as client:
        letters = DeadLetters(client, "topic", "group")
        chosen = letters.choose()
        admin.acl_setuser("reader", enabled=True, commands=[f"-{command}"])
        with pytest.raises(redis.ResponseError):
            list(letters.replay(chosen))
        assert len(dead(admin)) == 3
        admin.acl_setuser("reader", enabled=True, commands=["+@all"])
        assert admin.xlen("topic:retry:group") == 0
        assert {outcome for _, outcome in letters.replay(chosen)} == {"replayed"}
        assert admin.xlen("topic:retry:group") == 3
    admin.acl_deluser("reader")
