"""Redis refuses a cut, or a command within its transaction: state, results, letters and acknowledgements agree all the same."""

import asyncio
import operator
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis
from streamz import Stream

from tasks.reservoir.keys import cut_guard, dead_topic, letter_counts, state_key, topic_keys
from tests.support.streams import crash, dead, here, pending, push_all, step

# The commands of a cut's transaction, and of the scripts in it.
COMMANDS = (
    "multi", "exec", "eval", "set", "get", "del", "pexpire", "exists", "type", "xinfo", "hget", "hmget", "hset", "hdel", "hincrby",
    "xadd", "xack", "xdel", "xlen", "xrange", "xrevrange", "xpending", "xtrim", "zadd",
)  # fmt: skip

KEYS = {
    "state": state_key("group"),
    "guard": cut_guard("group"),
    "dead letters": dead_topic("topic", "group"),
    "counts of letters": letter_counts("topic"),
    "counts of the topic": topic_keys("topic").spilled,
    "results": "out",
    "tally of results": topic_keys("out").tally,
    "samples of results": topic_keys("out").samples,
}


def build(source: Stream) -> Stream:
    """Add numbers; then fail on the sums 1, 6 and 15."""

    def check(total: int) -> int:
        if total in {1, 6, 15}:
            msg = "bad"
            raise ValueError(msg)
        return total

    return source.pluck("n").accumulate(operator.add, start=0).map(check).to_redis("out")


@contextmanager
def denied(client: Any, command: str) -> Iterator[None]:
    """Deny a command to the user of the tests."""
    client.execute_command("ACL", "SETUSER", "default", f"-{command}")
    try:
        yield
    finally:
        client.execute_command("ACL", "SETUSER", "default", f"+{command}")


@contextmanager
def full(client: Any) -> Iterator[None]:
    """Have the server refuse what needs memory."""
    client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


@contextmanager
def replaced(client: Any, key: str) -> Iterator[None]:
    """Put a value of another type in place of a key."""
    was_there = client.exists(key)
    if was_there:
        client.rename(key, "aside")
    client.rpush(key, "of another program")
    try:
        yield
    finally:
        client.delete(key)
        if was_there:
            client.rename("aside", key)


async def live(client: Any, *, survives: bool, refusal: Any) -> None:
    """Run a life that is refused something for three steps, and ends there or goes on."""
    source = here(client)
    kept = build(source)
    source.open()
    await step(source, 3)
    push_all(client, "topic", [2, 3, 4])  # 3 fails
    with refusal:
        for _ in range(3):
            with suppress(redis.RedisError):
                await source.step()
    if survives:
        await step(source, 3)
    crash(source, client)
    del kept


def expect_agreement(client: Any, refusal: Any, *, survives: bool) -> None:
    push_all(client, "topic", [1])  # a letter, so that all keys are there
    asyncio.run(live(client, survives=survives, refusal=refusal))
    push_all(client, "topic", [5, 6])  # 5 fails
    asyncio.run(live_on(client))
    assert [fields[b"out"] for _, fields in client.xrange("out")] == [b"3", b"10", b"21"]
    assert [letter["n"] for letter in dead(client)] == [1, 3, 5]
    assert pending(client) == []


async def live_on(client: Any) -> None:
    source = here(client)
    kept = build(source)
    source.open()
    await step(source, 5)
    source.close()
    del kept


lives = pytest.mark.parametrize("survives", [False, True], ids=["crash", "go_on"])


@lives
@pytest.mark.parametrize("command", COMMANDS)
def test_denied_command_leaves_state_results_and_acks_in_agreement(
    real_redis: redis.Redis, command: str, survives: bool
) -> None:
    expect_agreement(real_redis, denied(real_redis, command), survives=survives)


@lives
@pytest.mark.parametrize("what", KEYS)
def test_key_of_another_type_leaves_state_results_and_acks_in_agreement(
    client: redis.Redis, what: str, survives: bool
) -> None:
    expect_agreement(client, replaced(client, KEYS[what]), survives=survives)


@lives
def test_full_server_leaves_state_results_and_acks_in_agreement(real_redis: redis.Redis, survives: bool) -> None:
    expect_agreement(real_redis, full(real_redis), survives=survives)
