"""Outlets on partitioned topics: one pipeline and one state for each partition, over one run and over several."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from flows import outlet
from tasks import Reservoir, SettingsError
from tasks.reservoir.partitions import Partitioning, declare, partition_topic
from tests.support.waiting import wait_until

KEYS = range(8)


@pytest.fixture
def client(redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    return real_redis


def push(client: redis.Redis, *numbers: int, topic: str = "readings") -> None:
    """Push each number under each key, to 4 partitions."""
    for n in numbers:
        for key in KEYS:
            client.xadd(partition_topic(topic, key % 4), {"key": key, "n": n})


def running_sum(total: int, entry: Any) -> tuple[int, dict[str, int]]:
    total += entry["n"]
    return total, {"key": entry["key"], "sum": total}


@outlet(topics="readings", group="sums", into="sums", lease="1s")
def sums(source: Stream) -> Stream:
    return source.keyed_state(running_sum, key=lambda entry: entry["key"], start=0, returns_state=True)


def sums_of(client: redis.Redis) -> dict[int, list[int]]:
    """Return the results of each key, in order."""
    found: dict[int, list[int]] = {key: [] for key in KEYS}
    for entry in Reservoir(client).peek("sums", 10_000):
        assert not isinstance(entry, Exception)
        found[entry["key"]].append(entry["sum"])
    return found


def test_a_replay_reads_all_partitions_and_drops_its_groups(client: redis.Redis) -> None:
    declare(client, "readings", Partitioning(4, "key"))
    push(client, 1, 2, 3)
    sums.fn(until="now", drop_group=True)
    assert sums_of(client) == {key: [1, 3, 6] for key in KEYS}
    for n in range(4):
        assert client.xinfo_groups(partition_topic("readings", n)) == []


def test_sums_of_partitions_continue_in_the_next_run(client: redis.Redis) -> None:
    declare(client, "readings", Partitioning(4, "key"))
    push(client, 1)
    sums.fn(until="now")
    push(client, 2, 3)
    sums.fn(until="now")
    assert sums_of(client) == {key: [1, 3, 6] for key in KEYS}


def test_an_outlet_notices_that_its_topic_was_partitioned_after_its_start(
    client: redis.Redis, stop_run: Callable[[], None]
) -> None:
    def come() -> None:
        wait_until(lambda: client.exists("readings") and client.xinfo_groups("readings"), "the outlet to wait")
        declare(client, "readings", Partitioning(4, "key"))
        push(client, 1)
        wait_until(lambda: client.xlen("sums") == len(KEYS), "the sums")
        stop_run()

    helper = threading.Thread(target=come)
    helper.start()
    sums.fn()
    helper.join()
    assert sums_of(client) == {key: [1] for key in KEYS}
    assert client.xinfo_groups("readings") == []


def test_topics_that_are_partitioned_in_different_ways_are_refused(client: redis.Redis) -> None:
    @outlet(topics=["readings", "limits"], group="both")
    def both(source: Stream) -> Stream:
        return source.map(dict)

    declare(client, "readings", Partitioning(4, "key"))
    with pytest.raises(
        SettingsError, match="'readings' with 4 partitions by 'key', 'limits' with none; partition them"
    ):
        both.fn(until="now")
    declare(client, "limits", Partitioning(2, "key"))
    with pytest.raises(SettingsError, match="'limits' with 2 partitions by 'key'"):
        both.fn(until="now")


def test_a_source_in_a_notebook_reads_all_partitions_in_order_per_key(client: redis.Redis) -> None:
    declare(client, "readings", Partitioning(4, "key"))
    push(client, 1, 2, 3)
    source = Stream.from_redis("readings", group="lab", client=client)
    seen = source.map(lambda entry: (entry["n"], entry["key"])).sink_to_list()
    source.start()
    wait_until(lambda: len(seen) == 3 * len(KEYS), "all entries")
    source.stop()
    source.join(20)
    for key in KEYS:
        assert [n for n, of in seen if of == key] == [1, 2, 3]
    assert source.drop_group()
