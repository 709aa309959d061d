"""Results: each is appended once, despite crashes, paused consumers and repeated commands, and before its acknowledgements."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from tasks import LeaseLostError, Reservoir
from tasks.group.consumer import Consumer
from tasks.group.membership import TOMBSTONE_TTL_MS
from tasks.nodes.from_redis import from_redis
from tasks.reservoir import groups
from tasks.reservoir.keys import result_record
from tasks.reservoir.results import newest
from tests.support.streams import consumer, crash, drain, here, live_through, lives, pending, push_all, read_all
from tests.support.waiting import wait_until

Fresh = Callable[[], redis.Redis]

pytestmark = pytest.mark.usefixtures("every_way_to_append")


@given(lives=lives)
def test_results_are_not_duplicated_by_crashes(fresh_client: Fresh, lives: Any) -> None:
    client = fresh_client()

    def build(source: Stream) -> Stream:
        windows = source.map(lambda e: e.id).sliding_window(2, return_partial=False)
        return windows.map(lambda w: [{"w": list(w)}, {"last": w[-1]}]).flatten().to_redis("results")

    pushed = live_through(lives, client, build)
    expected: list[Any] = []
    for i in range(len(pushed) - 1):
        expected += [{"w": pushed[i : i + 2]}, {"last": pushed[i + 1]}]
    assert [dict(entry) for entry in Reservoir(client).peek("results", 1000)] == expected


def records(client: redis.Redis) -> list[str]:
    return sorted(key.decode() for key in client.keys("sluice:output:*") if client.ttl(key) > 60)


def results(client: redis.Redis) -> list[Any]:
    return [entry["results"] for entry in Reservoir(client).peek("results", 1000)]


def test_result_record_outlives_its_pending_entry_only_briefly(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(5))

    async def main() -> None:
        source = here(client)
        kept = source.pluck("n").sliding_window(3, return_partial=False).map(sum).to_redis("results")
        source.open()
        await drain(source)
        # The newest of each of the last two windows is still in the one to come.
        assert records(client) == [result_record("group", "topic", id_) for id_ in ids[3:]]
        assert all(client.ttl(key) > 20 * 86_400 for key in records(client))
        source.close()
        del kept

    asyncio.run(main())
    assert results(client) == [3, 6, 9]


def test_combine_latest_of_a_slow_topic_collects_no_records_of_a_fast_one(client: redis.Redis) -> None:
    push_all(client, "slow", [100])
    push_all(client, "fast", range(20))

    async def main() -> None:
        source = here(client, ["slow", "fast"])
        slow, fast = (source.filter(lambda e, t=topic: e.topic == t).pluck("n") for topic in ("slow", "fast"))
        kept = Stream.combine_latest(slow, fast).map(sum).to_redis("results")
        source.open()
        await drain(source)
        assert len(records(client)) <= 2  # one more where both came in the same millisecond
        source.close()
        del kept

    asyncio.run(main())
    assert results(client) == [100 + n for n in range(20)]


def held_up(client: redis.Redis, wake: asyncio.Event) -> tuple[from_redis, Stream]:
    """Return an opened source whose entries wait before the sink until `wake`, and a reference that keeps its pipeline."""

    async def sleep(n: int) -> int:
        await wake.wait()
        return n

    source = here(client)
    kept = source.pluck("n").map_async(sleep).to_redis("results")
    source.open()
    return source, kept


async def succeed(client: redis.Redis) -> tuple[from_redis, Stream]:
    """Return a successor that has finished all entries, after its result records expired, and a reference that keeps it."""
    successor = here(client)
    kept = successor.pluck("n").to_redis("results")
    successor.open()
    await drain(successor, until=lambda: not pending(client))
    for key in client.keys("sluice:output:*"):
        client.delete(key)  # their short time is over
    return successor, kept


def test_paused_consumer_appends_nothing_after_its_entries_were_claimed(client: redis.Redis) -> None:
    """A paused consumer holds an entry in front of its sink. Its successor finishes the entry, and the record expires."""
    push_all(client, "topic", [1])

    async def main() -> None:
        wake = asyncio.Event()
        zombie, kept = held_up(client, wake)
        await zombie.step()
        crash(zombie, client)
        successor, also_kept = await succeed(client)
        wake.set()
        await asyncio.sleep(0)
        zombie.latest_run.consumer._next_renewal = 0.0
        with pytest.raises(LeaseLostError):
            await drain(zombie, until=lambda: False)
        successor.close()
        del kept, also_kept

    asyncio.run(main())
    assert results(client) == [1]
    assert not client.exists("topic:dead:group"), "an entry of a successor's does not fail here"


def test_stopped_pipeline_appends_no_results_of_entries_it_gave_back(client: redis.Redis) -> None:
    push_all(client, "topic", [1])

    async def main() -> None:
        wake = asyncio.Event()
        stopped, kept = held_up(client, wake)
        await stopped.step()
        stopped.close()
        successor, also_kept = await succeed(client)
        successor.close()
        wake.set()
        async with asyncio.timeout(5):
            while not stopped.latest_run.secured.meters[-1].received:  # noqa: ASYNC110 - the sink's, polled
                await asyncio.sleep(0.001)
        del kept, also_kept

    asyncio.run(main())
    assert results(client) == [1]


def test_deleted_and_recreated_group_appends_its_results_again(client: redis.Redis) -> None:
    push_all(client, "topic", range(3))

    async def live() -> None:
        source = here(client)
        kept = source.pluck("n").sliding_window(2, return_partial=False).map(sum).to_redis("results")
        source.open()
        await drain(source)
        source.close()
        del kept

    asyncio.run(live())
    client.xgroup_destroy("topic", "group")
    asyncio.run(live())
    assert results(client) == [1, 3, 1, 3]


def test_second_creator_of_a_group_keeps_result_records_of_the_first(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first creates the group and appends a result after the second has checked for the group, before it creates it."""
    ids = push_all(client, "topic", [1])
    reservoir, record = Reservoir(client), result_record("group", "topic", ids[0])
    first, second = consumer(client), consumer(client)

    def append(one: Consumer) -> None:
        assert [entry.id for entry in read_all(one)] == ids
        encoded = reservoir.encode([{"n": 1}])
        reservoir.append("results", encoded, record=record, field=b"x", fence=one.membership.fence)

    def late(*args: Any) -> list[bytes]:
        monkeypatch.undo()
        append(first)
        return groups.records_of(*args)

    monkeypatch.setattr(groups, "records_of", late)
    second.step(0)
    client.delete(first.membership.fence.lease)
    second._next_claim = 0.0
    append(second)
    assert client.xlen("results") == 1


def test_results_wait_for_a_full_server_and_fail_no_entry(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        client = redis.Redis.from_url(server.url, protocol=2)
        source = Stream.from_redis("topic", group="group", url=server.url)
        free = threading.Event()

        def hold(n: int) -> int:
            assert free.wait(20)
            return n

        kept = source.pluck("n").map(hold).to_redis("results")
        push_all(client, "topic", range(5))  # before the start: one read returns all, and the first blocks the loop
        client.xgroup_create("topic", "group", "0")
        source.start()
        wait_until(lambda: len(pending(client)) == 5, "the entries to be read")
        client.config_set("maxmemory", 1)
        free.set()
        wait_until(lambda: len(kept._waiting) == 1, "a result that waits, and holds up the others")
        client.config_set("maxmemory", 0)
        wait_until(lambda: not pending(client) and client.xlen("results") == 5, "five results")
        source.stop()
        source.join(20)
        assert results(client) == list(range(5))
        assert not client.exists("topic:dead:group")


def test_consumer_paused_beyond_the_tombstones_ttl_counts_as_dead(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_all(client, "topic", [1])
    sleeper = consumer(client)
    read_all(sleeper)
    from tasks.group import membership

    now = membership._uptime()
    monkeypatch.setattr(membership, "_uptime", lambda: now + TOMBSTONE_TTL_MS / 1000)
    with pytest.raises(LeaseLostError):
        sleeper.membership.renew()


entry_ids = st.tuples(st.integers(0, 3), st.integers(0, 12), st.sampled_from(["a", "b"]))


@given(ids=st.lists(entry_ids, min_size=1))
def test_newest_entry_is_the_one_with_the_largest_id(ids: list[tuple[int, int, str]]) -> None:
    class One:
        def __init__(self, ms: int, sequence: int, topic: str) -> None:
            self.topic, self.id = topic, f"{ms}-{sequence}"

    found = newest([One(*one) for one in ids])
    assert (found.id, found.topic) == (f"{max(ids)[0]}-{max(ids)[1]}", max(ids)[2])
