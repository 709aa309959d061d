"""Crashes, stops and expired leases: no entry is lost, order is kept, and windows are the same as without."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import given
from streamz import Stream

from tasks import LeaseLostError, Reservoir
from tasks.group import membership
from tasks.group.read_size import MAX_ENTRIES
from tasks.nodes.from_redis import from_redis
from tests.support.streams import consumer, crash, here, live_through, lives, pending, push_all, read_all
from tests.support.waiting import wait_until

Fresh = Callable[[], redis.Redis]


@given(lives=lives)
def test_every_entry_is_processed_in_order_despite_crashes_and_stops(fresh_client: Fresh, lives: Any) -> None:
    client = fresh_client()
    first: list[str] = []
    in_flight: set[str] = set()

    def see(entry: Any) -> None:
        if entry.id in first:
            assert entry.id in in_flight, "only what was in flight at a crash may come again"
        else:
            first.append(entry.id)

    def read_on(source: from_redis) -> None:
        """Read on before the crash, as the reader's thread does: unacknowledged entries may come again."""
        source.latest_run.consumer.step(0)
        in_flight.update(pending(client))

    pushed = live_through(lives, client, lambda source: source.sink(see), before_a_crash=read_on)
    assert first == pushed
    assert pending(client) == []


@given(lives=lives)
def test_sliding_window_emits_the_same_windows_despite_crashes_and_stops(fresh_client: Fresh, lives: Any) -> None:
    client = fresh_client()
    windows: list[tuple[str, ...]] = []

    def build(source: Stream) -> Stream:
        return source.map(lambda e: e.id).sliding_window(3, return_partial=False).sink(windows.append)

    pushed = live_through(lives, client, build)
    assert list(dict.fromkeys(windows)) == [tuple(pushed[i : i + 3]) for i in range(len(pushed) - 2)]
    assert pending(client) == pushed[-2:]


def test_entry_of_a_dead_consumer_is_redelivered_and_counted(
    client: redis.Redis,
) -> None:
    ids = push_all(client, "topic", range(3))
    victim = consumer(client)
    assert [e.id for e in read_all(victim)] == ids
    client.delete(f"sluice:lease:group:{victim.membership.name}")
    successor = consumer(client)
    assert [(e.id, e.deliveries) for e in read_all(successor)] == [(id_, 2) for id_ in ids]


def test_entries_given_back_count_no_delivery(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(3))
    one = consumer(client)
    read_all(one)
    assert one.leave() == 3
    assert [(e.id, e.deliveries) for e in read_all(consumer(client))] == [(id_, 1) for id_ in ids]


def test_living_consumer_keeps_its_entries_however_long_it_holds_them(client: redis.Redis) -> None:
    push_all(client, "topic", range(3))
    holder = consumer(client)
    assert len(read_all(holder)) == 3
    other = consumer(client)
    assert read_all(other) == []
    holder.membership.renew()
    other.step(0)
    assert len(pending(client)) == 3
    assert [c["pending"] for c in client.xinfo_consumers("topic", "group") if c["pending"]] == [3]


def test_successor_reads_no_new_entries_before_leases_are_decided(client: redis.Redis) -> None:
    first = push_all(client, "topic", range(3))
    victim = consumer(client)
    read_all(victim)  # and is killed: its lease runs on
    later = push_all(client, "topic", range(2))
    successor = consumer(client)
    assert read_all(successor) == []
    client.delete(f"sluice:lease:group:{victim.membership.name}")
    assert [e.id for e in read_all(successor)] == first + later


def test_consumer_taken_for_dead_can_acknowledge_nothing(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(3))
    paused = consumer(client)
    read_all(paused)
    client.delete(f"sluice:lease:group:{paused.membership.name}")
    successor = consumer(client)
    assert len(read_all(successor)) == 3
    with pytest.raises(LeaseLostError, match="taken for dead"):
        paused.ack("topic", ids)
    with pytest.raises(LeaseLostError, match="taken for dead"):
        paused.membership.renew()
    assert pending(client) == ids
    assert successor.ack("topic", ids) == 3


def test_lease_that_expired_unnoticed_is_taken_again(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(3))
    paused = consumer(client)
    read_all(paused)
    client.delete(f"sluice:lease:group:{paused.membership.name}")
    assert paused.membership.renew() is False
    assert paused.ack("topic", ids) == 3


def test_entries_of_a_lost_reply_come_before_later_ones(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(3))
    one = consumer(client, max_entries=1)
    one.step(0)
    # Delivered by the server, never seen here.
    client.xreadgroup("group", one.membership.name, {"topic": ">"}, count=1)
    one._recovery.restart(one.topics)
    assert [e.id for e in read_all(one)] == ids[1:]


def test_entries_trimmed_while_pending_are_acknowledged_unprocessed(
    client: redis.Redis,
) -> None:
    ids = push_all(client, "topic", range(4))
    victim = consumer(client)
    read_all(victim)
    client.delete(f"sluice:lease:group:{victim.membership.name}")
    client.xdel("topic", ids[0], ids[2])
    successor = consumer(client)
    assert [e.id for e in read_all(successor)] == [ids[1], ids[3]]
    assert pending(client) == [ids[1], ids[3]]


def test_deleted_group_continues_after_the_last_entry_it_read(real_redis: redis.Redis) -> None:
    push_all(real_redis, "topic", range(3))
    one = consumer(real_redis)
    read_all(one)
    real_redis.xgroup_destroy("topic", "group")
    later = push_all(real_redis, "topic", range(2))
    assert [e.id for e in read_all(one)] == later


def test_flushed_reservoir_is_read_from_its_new_entries_on(real_redis: redis.Redis) -> None:
    push_all(real_redis, "topic", range(3))
    one = consumer(real_redis)
    read_all(one)
    real_redis.flushall()
    one.step(0)
    later = push_all(real_redis, "topic", range(2))
    assert [e.id for e in read_all(one)] == later


@pytest.mark.parametrize("pushes", [0, 2])
def test_recreated_topic_with_lower_ids_is_read_from_its_beginning(real_redis: redis.Redis, pushes: int) -> None:
    """As after a clock that was ahead, or on another server; before or after the deleted group was noticed."""
    one = consumer(real_redis)
    real_redis.xadd("topic", {"n": "1"}, id=f"{int(time.time() * 1000) + 3_600_000}-0")
    assert len(read_all(one)) == 1
    real_redis.flushall()
    later = push_all(real_redis, "topic", range(pushes))
    found = read_all(one)
    later += push_all(real_redis, "topic", [3])
    assert [e.id for e in found + read_all(one)] == later


@pytest.mark.parametrize(
    ("start_from", "expected"),
    [
        ("beginning", [0, 1, 2, 3]),
        ("new", []),
        ("1970-01-01T00:00:00.002", [2, 3]),
        ("2-5", [2, 3]),
        ("2-6", [3]),
        ("3-0", [3]),
        ("0", [0, 1, 2, 3]),
    ],
)
def test_new_group_starts_at_start_from(client: redis.Redis, start_from: str, expected: list[int]) -> None:
    for n, id_ in enumerate(["1-0", "1-7", "2-5", "3-0"]):
        client.xadd("topic", {"n": n}, id=id_)
    assert [e["n"] for e in read_all(consumer(client, start_from=start_from))] == expected


def test_existing_group_continues_at_its_position_and_logs_it(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    push_all(client, "topic", range(3))
    one = consumer(client)
    read_all(one)
    one.ack("topic", pending(client))
    one.leave()
    caplog.set_level("INFO")
    assert read_all(consumer(client, start_from="2020-01-01")) == []
    assert "exists and continues at its position" in caplog.text


def test_dead_consumers_without_entries_are_removed(client: redis.Redis) -> None:
    push_all(client, "topic", [])
    for _ in range(3):
        one = consumer(client)
        one.step(0)
        client.delete(f"sluice:lease:group:{one.membership.name}")
    last = consumer(client)
    last.step(0)
    push_all(client, "topic", [1])
    last.step(0)
    assert [c["name"].decode() for c in client.xinfo_consumers("topic", "group")] == [last.membership.name]


def test_expired_lease_without_a_claim_has_no_effect(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(4))
    seen: list[str] = []

    async def main() -> None:
        source = here(client)
        kept = source.map(lambda e: e.id).sink(seen.append)
        reading = source.open()
        for _ in ids:
            crash(source, client)  # as after a pause, or an outage, longer than the lease
            reading.consumer._next_renewal = 0.0
            await source.step()
        source.close()
        del kept

    asyncio.run(main())
    assert seen == ids
    assert pending(client) == []


def test_consumer_with_pending_entries_is_not_removed(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(3))
    victim, other = consumer(client), consumer(client)
    read_all(victim)
    client.delete(f"sluice:lease:group:{victim.membership.name}")
    assert not other.membership.retire("topic", victim.membership.name)
    assert pending(client) == ids


def test_replica_reads_beside_a_living_one_that_holds_entries(client: redis.Redis) -> None:
    push_all(client, "topic", range(2))
    holder = consumer(client, lease_ttl=2.0)
    assert len(read_all(holder)) == 2
    later = push_all(client, "topic", range(2))
    replica = consumer(client)
    assert read_all(replica) == []  # not yet: the holder may be dead
    holder._next_renewal = 0.0
    wait_until(
        lambda: client.pttl(f"sluice:lease:group:{holder.membership.name}") < 1900, "a part of the lease to pass"
    )
    replica.step(0)
    holder.renew()
    assert [e.id for e in read_all(replica)] == later


def test_backlog_of_pending_entries_is_recovered_to_its_end(client: redis.Redis) -> None:
    ids = Reservoir(client).push_many("topic", [{"n": n} for n in range(2_500)])
    victim = consumer(client, max_entries=3_000, max_bytes=2**30)
    while victim.held < len(ids):
        victim.step(0)
    victim.leave()
    successor = consumer(client)
    seen: list[str] = []
    while step := successor.step(0):
        assert len(step) <= MAX_ENTRIES
        seen += [e.id for e in step]
    assert seen == ids


def test_claims_wait_after_an_outage_that_may_have_expired_other_leases(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = push_all(client, "topic", range(3))
    holder = consumer(client)
    read_all(holder)
    other = consumer(client)
    while not other._settled:
        holder._next_renewal = 0.0
        holder.renew()
        other.step(1)
    # 8 seconds without Redis: the lease that was renewed first has run out, the other has not.
    later = membership._uptime() + 8.0
    monkeypatch.setattr(membership, "_uptime", lambda: later)
    client.delete(holder.membership.fence.lease)
    other._next_renewal = other._next_claim = 0.0
    assert read_all(other) == []
    holder.renew()
    assert holder.ack("topic", ids) == 3
