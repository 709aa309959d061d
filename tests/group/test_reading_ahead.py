"""Reading ahead: the same entries in the same order as without, none twice, none lost."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from deployments.servers.redis_server import RedisServer
from tasks import LeaseLostError
from tasks.group.consumer import Consumer
from tasks.nodes.from_redis import from_redis
from tests.support.streams import at_work, consumer, lossy, pending, push_all
from tests.support.waiting import wait_until

Fresh = Callable[[], redis.Redis]


def ids_of(entries: list[Any]) -> list[str]:
    return [entry.id for entry in entries]


def rest_of(one: Consumer, *, ahead: bool = True) -> list[str]:
    """Return the ids of all entries until an empty step; those of each step are acknowledged before the next."""
    found: list[str] = []
    while entries := one.step(0, ahead=ahead):
        found += ids_of(entries)
        one.ack("topic", ids_of(entries))
    return found


def die(one: Consumer, client: redis.Redis) -> None:
    client.delete(one.membership.fence.lease)


@given(
    rounds=st.lists(
        st.tuples(
            st.integers(0, 7),  # entries pushed
            st.lists(st.booleans(), max_size=4),  # steps, and whether they read ahead
            st.none() | st.integers(1, 4),  # the command whose reply is lost next
            st.sampled_from(["go on", "claim", "leave", "die"]),
        ),
        max_size=10,
    ),
    at_once=st.integers(1, 4),
)
def test_reading_ahead_returns_each_entry_once_and_in_order_despite_lost_replies(
    fresh_client: Fresh, rounds: Any, at_once: int
) -> None:
    """With two consumers, of which the first takes over entries of the second at a `claim`."""
    client: Any = fresh_client()
    pushed: list[str] = []
    returned: set[str] = set()
    taken: set[str] = set()  # by the second one, and what was delivered before a life of the first began
    second = consumer(client, max_entries=1, max_deliveries=100)
    second.step(0)

    def join() -> tuple[Any, Consumer, list[str]]:
        taken.update(pending(client))
        through = lossy(client)
        return through, consumer(through, max_entries=at_once, max_deliveries=100), []

    def check() -> None:
        assert len(set(seen)) == len(seen), "none is returned twice"
        new = [id_ for id_ in seen if id_ not in taken]
        assert new == sorted(new, key=pushed.index), "first deliveries are in order"
        returned.update(seen)

    through, one, seen = join()
    for pushes, steps, loses_in, then in rounds:
        pushed += push_all(client, "topic", range(pushes))
        through.loses_in = loses_in or 0
        for ahead in steps:
            with contextlib.suppress(redis.ConnectionError):
                seen += ids_of(one.step(0, ahead=ahead))
        through.loses_in = 0
        check()
        if then == "claim":
            theirs = ids_of(second.step(0))
            taken.update(theirs)
            returned.update(theirs)
            die(second, client)
            one._next_claim = 0.0
            second = consumer(client, max_entries=1, max_deliveries=100)
        elif then == "leave":
            one.leave()
            through, one, seen = join()
        elif then == "die":
            die(one, client)
            through, one, seen = join()
    one._next_claim = 0.0
    for _ in range(100):
        seen += ids_of(one.step(0, ahead=True))
    check()
    die(one, client)
    die(second, client)
    assert returned | set(rest_of(consumer(client, max_deliveries=100))) == set(pushed)
    assert pending(client) == []


def test_next_read_is_sent_before_its_entries_are_needed(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(5))
    one = consumer(client, max_entries=2)
    assert ids_of(one.step(0, ahead=True)) == ids[:2]
    assert pending(client) == ids[:4]
    ids += push_all(client, "topic", [5])
    assert ids_of(one.step(0, ahead=True)) == ids[2:4]
    assert pending(client) == ids
    assert rest_of(one) == ids[4:]


def test_no_read_is_sent_ahead_after_a_short_one(client: redis.Redis) -> None:
    push_all(client, "topic", range(3))
    one = consumer(client, max_entries=2)
    one.step(0, ahead=True)
    one.step(0, ahead=True)
    [late] = push_all(client, "topic", [3])
    assert late not in pending(client)
    assert ids_of(one.step(0)) == [late]


def test_step_waits_for_new_entries_after_an_empty_read_ahead(real_redis: redis.Redis) -> None:
    push_all(real_redis, "topic", range(2))
    one = consumer(real_redis, max_entries=2)
    one.step(0, ahead=True)
    [late] = push_all(real_redis, "topic", [2])
    assert ids_of(one.step(60_000, ahead=True)) == [late]


def test_entries_read_ahead_at_the_end_are_given_back_and_come_first(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(5))
    one = consumer(client, max_entries=2)
    one.step(0, ahead=True)
    assert one.leave() == 4
    other = consumer(client)
    assert [(entry.id, entry.deliveries) for entry in other.step(0)] == [(id_, 1) for id_ in ids[:4]]
    assert ids_of(other.step(0)) == ids[4:]


def connections(client: redis.Redis) -> list[dict[str, str]]:
    """Return the connections over which consumers read ahead."""
    return [each for each in client.client_list() if each["name"] == "ahead"]


def cut_connections(client: redis.Redis) -> None:
    for each in connections(client):
        client.client_kill_filter(_id=each["id"])


@pytest.fixture
def reading(redis_server: RedisServer, real_redis: redis.Redis) -> Iterator[Consumer]:
    """Return a consumer that has returned two of nine entries and has sent a read of two more ahead."""
    push_all(real_redis, "topic", range(9))
    with redis.Redis.from_url(redis_server.url, protocol=2, client_name="ahead") as client:
        one = consumer(client, max_entries=2)
        one.step(0, ahead=True)
        yield one


def test_leaving_closes_the_read_ahead_connection(reading: Consumer, real_redis: redis.Redis) -> None:
    assert len(connections(real_redis)) == 2
    reading.leave()
    wait_until(lambda: len(connections(real_redis)) == 1, "the consumer to disconnect")  # the client keeps one


def test_entries_read_ahead_are_recovered_after_their_connection_was_cut(
    reading: Consumer, real_redis: redis.Redis
) -> None:
    ids = pending(real_redis)
    assert len(ids) == 4
    cut_connections(real_redis)
    assert ids_of(reading.step(0, ahead=True)) == ids[2:], "no outage, and no log line about one"
    reading.step(0, ahead=True)
    cut_connections(real_redis)
    assert reading.leave() == 8


def test_entries_are_returned_even_if_no_read_can_be_sent_ahead(
    redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    ids = push_all(real_redis, "topic", range(20))
    with redis.Redis.from_url(redis_server.url, protocol=2) as client:
        one = consumer(client, max_entries=2)
        one.step(0)
        most = real_redis.config_get("maxclients")["maxclients"]
        real_redis.config_set("maxclients", 1)  # those that are connected stay
        try:
            assert [ids_of(one.step(0, ahead=True)) for _ in range(3)] == [ids[2:4], ids[4:6], ids[6:8]]
        finally:
            real_redis.config_set("maxclients", most)
        assert len(pending(real_redis)) == 8, "and for some seconds nothing is tried"
        one._reader._reads._not_before = 0.0
        assert ids_of(one.step(0, ahead=True)) == ids[8:10]
        assert len(pending(real_redis)) == 12


def test_connection_cut_between_reads_has_no_effect(reading: Consumer, real_redis: redis.Redis) -> None:
    ids = push_all(real_redis, "topic", range(20))
    while reading.step(0, ahead=len(pending(real_redis)) < 10):
        pass
    cut_connections(real_redis)
    ids = push_all(real_redis, "topic", range(9))
    assert [id_ for _ in range(6) for id_ in ids_of(reading.step(0, ahead=True))] == ids


@pytest.mark.parametrize("claims", [0, 1, 5])
def test_read_that_arrives_after_it_was_given_up_is_recovered_at_the_next_claim(
    client: redis.Redis, claims: int
) -> None:
    ids = push_all(client, "topic", range(6))
    through = lossy(client)
    one = consumer(through, max_entries=2)
    one.step(0, ahead=True)
    through.loses_in = 1
    assert ids_of(one.step(0)) == ids[2:4]
    for _ in range(claims):
        one._claim()
    client.xreadgroup("group", one.membership.name, {"topic": ">"}, count=1)  # what had been on its way for long
    assert ids_of(one.step(0)) == ids[5:]
    one._next_claim = 0.0
    assert ids_of(one.step(0)) == ids[4:5]


def test_slow_pipeline_leaves_no_reply_in_redis_memory(redis_server: RedisServer, real_redis: redis.Redis) -> None:
    push_all(real_redis, "topic", range(600))
    at_work(real_redis, "group")
    slow = threading.Event()
    source: Any = from_redis("topic", group="group", url=redis_server.url, max_entries=100)
    seen = source.map(lambda entry: slow.wait(20) and entry["n"]).sink_to_list()
    source.start()
    reads = source.latest_run.consumer._reader._reads
    wait_until(lambda: reads._fetched, "the read ahead to be fetched")
    assert reads._sent is None
    assert len(pending(real_redis)) == source.latest_run.consumer.held + 100
    slow.set()
    wait_until(lambda: len(seen) == 600, "all of them")
    assert seen == list(range(600))
    source.stop()
    source.join(20)


def test_consumer_taken_for_dead_closes_its_connection(redis_server: RedisServer, real_redis: redis.Redis) -> None:
    push_all(real_redis, "topic", range(600))
    at_work(real_redis, "group")
    stuck = threading.Event()
    source: Any = from_redis("topic", group="group", url=redis_server.url, max_entries=100, lease="300ms")
    kept = source.map(lambda _: stuck.wait(20)).sink(print)
    source.start()
    wait_until(lambda: len(pending(real_redis)) >= 200, "reads ahead")
    real_redis.set(source.latest_run.consumer.membership.fence.lease, "claimed", px=60_000)
    with pytest.raises(LeaseLostError):
        source.join(20)
    assert source.latest_run.consumer._reader._reads._connection._sock is None
    stuck.set()
    del kept


def test_backlog_does_not_prevent_claims_from_dead_consumers(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(9))
    victim = consumer(client, max_entries=1, max_deliveries=100)
    victim.step(0)
    one = consumer(client, max_entries=2)
    one._settled = True
    assert ids_of(one.step(0, ahead=True)) == ids[1:3]
    die(victim, client)
    one._next_claim = 0.0
    assert ids_of(one.step(0, ahead=True)) == ids[3:5], "what was under way, and nothing is sent behind it"
    assert ids_of(one.step(0, ahead=True)) == ids[:1]
    assert one.returned_poison_candidates
    assert pending(client) == ids[:5], "nothing is in flight beside what the other may have died of"
    one.reset_deliveries("topic", ids[:1])
    assert rest_of(one) == ids[5:]


def test_deleted_group_continues_after_the_entries_read_ahead(real_redis: redis.Redis) -> None:
    ids = push_all(real_redis, "topic", range(6))
    one = consumer(real_redis, max_entries=2)
    one.step(0, ahead=True)
    real_redis.xgroup_destroy("topic", "group")
    found = [id_ for _ in range(5) for id_ in ids_of(one.step(0, ahead=True))]
    assert found == ids[2:]


@pytest.mark.parametrize("options", [{"single_connection_client": True}, {"max_connections": 1}])
def test_client_with_a_single_connection_can_read_ahead(
    redis_server: Any, real_redis: redis.Redis, options: Any
) -> None:
    ids = push_all(real_redis, "topic", range(5))
    with redis.Redis.from_url(redis_server.url, protocol=2, **options) as narrow:
        one = consumer(narrow, max_entries=2)
        assert ids_of(one.step(0, ahead=True)) == ids[:2]
        assert pending(real_redis) == ids[:4]
        assert rest_of(one) == ids[2:]
        assert one.leave() == 2
