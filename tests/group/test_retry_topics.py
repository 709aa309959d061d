"""Retry topics: replayed entries are read by their group alone, and equal the pushed entries."""

from collections.abc import Callable
from typing import Any

import pytest
import redis
from streamz import Stream

from tasks.group.consumer import Consumer
from tests.support.letters import failing, replay_all, retrying
from tests.support.streams import consumer, dead, pending, push_all, read_all, run


def test_replayed_entry_equals_the_pushed_one(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(3))
    failing(client, {1})
    replay_all(client)
    [entry] = read_all(one := consumer(client))
    [(key, _)] = client.xrange("topic:retry:group")
    assert (entry.topic, entry.id, entry.deliveries, entry) == ("topic", ids[1], 1, {"n": 1})
    assert entry.origin == ("topic:retry:group", key.decode())
    assert one.ack(*entry.origin[:1], [entry.origin[1]]) == 1
    assert client.xlen("topic:retry:group") == 0


def test_entry_that_was_not_replayed_keeps_its_topic_and_id(client: redis.Redis) -> None:
    [id_] = push_all(client, "topic", [1])
    [entry] = read_all(consumer(client))
    assert entry.origin == (entry.topic, entry.id) == ("topic", id_)


def test_retry_topic_does_not_exist_before_a_replay(client: redis.Redis) -> None:
    push_all(client, "topic", range(3))
    failing(client, {1})
    assert not client.exists("topic:retry:group")


def test_running_consumer_finds_replayed_entries_at_the_next_claim(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(3))
    failing(client, {0, 2})
    one = consumer(client)
    assert read_all(one) == []
    replay_all(client)
    one._next_claim = 0.0
    assert [entry.id for entry in read_all(one)] == [ids[0], ids[2]]


def test_entry_that_fails_again_is_a_dead_letter_and_counts_its_retries(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(2))
    for retries in range(3):
        failing(client, {1})
        [letter] = dead(client)
        assert (letter["n"], letter["dead:topic"], letter["dead:id"]) == (1, "topic", ids[1])
        assert letter.get("dead:retries", 0) == retries
        replay_all(client)
    failing(client, set(), seen=(seen := []))
    assert [entry.id for entry in seen] == [ids[1]]
    assert not dead(client)


def test_undecodable_entry_is_replayed_with_its_bytes_untouched(client: redis.Redis) -> None:
    poison = {b"frame": b"\xff\xff\xff\xff and no frame", b"dead:topic": b"its own", b"retry:id": b"its own, too"}
    id_ = client.xadd("topic", poison).decode()
    for retries in (None, b"1", b"2"):
        failing(client, set())
        [(_, letter)] = client.xrange("topic:dead:group")
        assert letter[b"frame"] == poison[b"frame"]
        assert letter[b"retry:id"] == poison[b"retry:id"]
        assert (letter[b"dead:node"], letter[b"dead:id"].decode()) == (b"decode", id_)
        assert letter.get(b"dead:retries") == retries
        assert [outcome for _, outcome in replay_all(client)] == ["replayed"]


def test_poison_message_in_the_retry_topic_is_redelivered_then_dead_lettered(
    client: redis.Redis,
) -> None:
    ids = push_all(client, "topic", range(2))
    failing(client, {0})
    replay_all(client)
    for deliveries in (1, 2):
        victim = consumer(client, max_deliveries=2)
        assert [(entry.id, entry.deliveries) for entry in read_all(victim)] == [(ids[0], deliveries)]
        client.delete(victim.membership.fence.lease)
    assert read_all(consumer(client, max_deliveries=2)) == []
    [letter] = dead(client)
    assert (letter["dead:id"], letter["dead:node"], letter["dead:retries"]) == (ids[0], "delivery", 1)


def reading_again(client: redis.Redis) -> tuple[list[str], Consumer]:
    """Return the ids of three entries, two of them in the retry topic, and a consumer that has read the first of these."""
    ids = push_all(client, "topic", range(3))
    failing(client, {0, 1})
    replay_all(client)
    one = consumer(client, max_entries=1)
    assert [entry.id for entry in one.step(0)] == [ids[0]]
    return ids, one


def test_entries_given_back_to_a_retry_topic_come_first_and_uncounted(client: redis.Redis) -> None:
    ids, one = reading_again(client)
    assert one.leave() == 1
    assert [(entry.id, entry.deliveries) for entry in read_all(consumer(client))] == [(ids[0], 1), (ids[1], 1)]


def test_successor_reads_no_new_retry_entries_before_leases_are_decided(client: redis.Redis) -> None:
    push_all(client, "topic", range(3))
    failing(client, {0, 1})
    replay_all(client)
    victim = consumer(client, max_entries=1)
    victim.step(0)  # and is killed: its lease runs on
    assert read_all(consumer(client)) == []


def test_retry_topic_of_a_deleted_group_is_read_from_its_beginning(real_redis: redis.Redis) -> None:
    ids, one = reading_again(real_redis)
    real_redis.xgroup_destroy("topic:retry:group", "group")
    assert [entry.id for entry in read_all(one)] == [ids[0], ids[1]]


def test_retry_entries_deleted_while_pending_are_not_processed(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(2))
    failing(client, {0, 1})
    replay_all(client)
    victim = consumer(client)
    first, _ = read_all(victim)
    client.delete(victim.membership.fence.lease)
    client.xdel(*first.origin)
    assert [entry.id for entry in read_all(consumer(client))] == [ids[1]]
    assert len(pending(client, "topic:retry:group")) == 1


def test_foreign_entry_in_a_retry_topic_is_read_by_its_group_alone(client: redis.Redis) -> None:
    push_all(client, "topic", [])
    id_ = client.xadd("topic:retry:group", {"n": 7}).decode()
    client.xgroup_create("topic", "group", mkstream=True)
    [entry] = read_all(consumer(client))
    assert (entry.topic, entry.id, entry) == ("topic", id_, {"n": 7})
    run(lambda source: source.sink(lambda _: pytest.fail("not for others")), client, group="other")


def test_outlet_can_read_a_retry_topic_alone(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(3))
    failing(client, {1})
    replay_all(client)
    push_all(client, "topic", [3])
    failing(client, set(), seen=(seen := []), topics="topic:retry:group")
    assert [(entry.topic, entry.id) for entry in seen] == [("topic", ids[1])]
    assert not retrying(client)


def test_results_of_a_replayed_entry_are_appended_once(client: redis.Redis) -> None:
    push_all(client, "topic", range(3))

    def build(bad: set[int]) -> Callable[[Stream], Stream]:
        return lambda source: source.map(lambda entry: {"tenth": 1 / (entry["n"] not in bad)}).to_redis("into")

    run(build({1}), client)
    assert client.xlen("into") == 2
    for expected in (2, 3):
        replay_all(client)
        run(build({1} if expected == 2 else set()), client)
        assert client.xlen("into") == expected


def test_replayed_entries_can_share_a_batch_with_others(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(3))
    failing(client, {0, 2})
    replay_all(client)
    ids += push_all(client, "topic", [3])
    seen: list[list[str]] = []
    run(lambda source: source.map(lambda entries: [one.id for one in entries]).sink(seen.append), client, batch=9)
    assert [sorted(entries) for entries in seen] == [[ids[0], ids[2], ids[3]]]
    assert not pending(client)
    assert not retrying(client)


def test_bounded_replay_reads_the_retry_topic_up_to_its_end(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(3))
    failing(client, {0, 2})
    replay_all(client)
    seen: list[Any] = []
    failing(client, set(), seen=seen, until="2000-01-01")
    assert seen == []
    failing(client, set(), seen=seen, until="now")
    assert [entry.id for entry in seen] == [ids[0], ids[2]]
