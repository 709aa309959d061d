"""A server that refuses in the middle of something: nothing that was under way is left behind."""

from typing import Any

import pytest
import redis

from tasks.connection import is_outage
from tasks.consumer import Consumer
from tests.streams import consumer, dead, pending, push_all, read_all


def test_what_a_full_server_refuses_to_put_away_is_put_away_later(real_redis: redis.Redis) -> None:
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


def test_a_full_server_is_read_on(real_redis: redis.Redis) -> None:
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


def test_what_was_read_before_a_topic_whose_group_is_gone_comes_all_the_same(client: redis.Redis) -> None:
    bounded = Consumer(client, ["one", "two"], "group", until="9999999999999-0")
    bounded.step(0)
    ids = push_all(client, "one", range(3))
    client.xgroup_destroy("two", "group")
    assert [entry.id for entry in read_all(bounded)] == ids
