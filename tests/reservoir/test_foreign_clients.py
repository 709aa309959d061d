"""Other clients of the same Redis: nothing that they write stops one of Sluice's groups."""

from typing import Any

import pytest
import redis

from tasks import Reservoir
from tasks.group.dead_letters import DeadLetters
from tasks.report.levels import markdown
from tasks.reservoir.keys import result_record
from tasks.reservoir.results import forget_results
from tests.support.streams import consumer, dead, pending, push_all, read_all

NO_TEXT = b"\xff\xfe"


def test_foreign_groups_and_consumers_with_binary_names_are_ignored(client: Any) -> None:
    ids = push_all(client, "topic", range(3))
    client.xgroup_create("topic", NO_TEXT, "0")
    client.xgroup_create("topic", "group", "0")
    client.xreadgroup("group", NO_TEXT, {"topic": ">"}, count=1)
    one = consumer(client)
    assert [entry.id for entry in read_all(one)] == ids[1:]
    one.leave()


@pytest.mark.parametrize(("retry_id", "times"), [(NO_TEXT, "1"), (b"1", "1"), (b"1-x", "1"), (b"1-1", "x")])
def test_foreign_entry_in_a_retry_topic_is_processed_under_its_own_id(client: Any, retry_id: bytes, times: str) -> None:
    push_all(client, "topic", [1])
    by_hand = client.xadd("topic:retry:group", {"n": "2", "retry:id": retry_id, "retry:times": times}).decode()
    one = consumer(client)
    [_, read] = read_all(one)
    assert (read.id, read.origin) == (by_hand, ("topic:retry:group", by_hand))
    one.dead_letter(*read.origin, node="map", exception="x")
    [letter] = DeadLetters(client, "topic", "group").choose()
    assert (letter.entry_id, letter.retries) == (by_hand, 0)


def test_entries_with_ids_beyond_all_times_can_be_displayed(client: Any) -> None:
    ids = [client.xadd("topic", {"n": "1"}, id=f"{ns}-0").decode() for ns in (1_767_225_600_000_000_000, 2**64 - 1)]
    assert [entry.time.year for entry in Reservoir(client).peek("topic", 9) if hasattr(entry, "time")] == [9999, 9999]
    assert "9999-12-30" in markdown(Reservoir(client).levels(), [])
    one = consumer(client)
    for entry in read_all(one):
        one.dead_letter("topic", entry.id, node="map", exception="x")
    assert [letter["dead:id"] for letter in dead(client)] == ids
    assert pending(client) == []


def test_forgetting_results_of_a_topic_keeps_those_of_its_retry_topic(fake_redis: redis.Redis) -> None:
    records = [result_record("group", topic, "1-0") for topic in ("topic", "topic:retry:group")]
    for record in records:
        fake_redis.hset(record, "a result", "=1-0")
    forget_results(fake_redis, "group", "topic")
    assert [fake_redis.exists(record) for record in records] == [0, 1]
    forget_results(fake_redis, "group", "topic:retry:group")
    assert not fake_redis.exists(records[1])
