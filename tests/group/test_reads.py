"""Size of reads: bounded for any entries, and fair to all topics."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis

from tasks import Reservoir
from tasks.base.ids import id_numbers
from tasks.group.consumer import Consumer
from tasks.group.delivery import Undecodable
from tasks.reservoir import reservoir
from tasks.reservoir.groups import groups_of
from tasks.reservoir.keep import Keep
from tasks.reservoir.lua import load
from tasks.reservoir.retention import Retention
from tests.support.streams import push_all

IDS = load(reservoir.__file__, "ids")


@pytest.mark.parametrize("until", [None, "now"])
def test_read_of_several_topics_returns_no_more_than_of_one(client: redis.Redis, until: str | None) -> None:
    topics = ["one", "two", "three"]
    for topic in topics:
        push_all(client, topic, range(20))
    reader = Consumer(client, topics, "group", until=until, max_entries=9)
    read: list[Any] = reader.step(0)
    while step := reader.step(0):
        assert len(step) <= 9
        read += step
    assert Counter(entry.topic for entry in read) == dict.fromkeys(topics, 20)


def test_every_topic_is_read_even_if_there_are_more_than_entries_per_read(client: redis.Redis) -> None:
    topics = [f"topic{n}" for n in range(5)]
    for topic in topics:
        push_all(client, topic, range(2))
    reader = Consumer(client, topics, "group", max_entries=2)
    steps: list[Any] = []
    while step := reader.step(0):
        steps += step
    assert Counter(entry.topic for entry in steps) == dict.fromkeys(topics, 2)
    places = [(id_numbers(entry.id), entry.topic) for entry in steps]
    assert places == sorted(places)


@pytest.mark.parametrize("until", [None, "now"])
@pytest.mark.parametrize("topics", [["one"], ["one", "two"]])
@pytest.mark.parametrize("ahead", [False, True])
def test_read_is_returned_in_parts_of_limited_decoded_size(
    client: redis.Redis, topics: list[str], until: str | None, *, ahead: bool
) -> None:
    reservoir = Reservoir(client, compression="zstd")
    pushed = []
    for n in range(6):
        for topic in topics:
            frame = pd.DataFrame({"x": np.full(10_000, n)})  # 80,000 bytes, of which few are stored
            pushed.append((topic, reservoir.push(topic, {"f": frame})))
            pushed.append((topic, reservoir.push(topic, {"f": n})))
    reader = Consumer(client, topics, "group", until=until, max_decoded_bytes=250_000)
    read, parts = [], []
    while step := reader.step(0, ahead=ahead):
        parts.append(sum(isinstance(entry["f"], pd.DataFrame) for entry in step))
        read += [entry.origin for entry in step]
    assert read == sorted(pushed, key=lambda origin: (id_numbers(origin[1]), topics.index(origin[0])))
    assert (sum(parts), max(parts)) == (6 * len(topics), 2)


def test_entry_above_the_limit_of_a_part_is_returned_alone(client: redis.Redis) -> None:
    for n in range(3):
        Reservoir(client).push("topic", {"f": np.full(10_000, n)})
    client.xadd("topic", {"f": b"\xff\xff\xff\xff" + bytes(20_000)})
    reader = Consumer(client, "topic", "group", max_decoded_bytes=1)
    sizes = []
    while step := reader.step(0):
        sizes.append([isinstance(entry, Undecodable) for entry in step])
    assert sizes == [[False], [False], [False], [True]]


def test_topic_at_its_end_is_not_polled_while_another_is_behind(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_all(client, "short", range(2))
    push_all(client, "long", range(30))
    reader = Consumer(client, ["short", "long"], "group", until="now", max_entries=2)
    read = reader.step(0)
    push_all(client, "short", range(50))
    until = reader._reader._until
    assert until is not None
    script, asked = until._read, Counter[str]()

    def asking(*, topic: str, **others: Any) -> Any:
        asked[topic] += 1
        return script(topic=topic, **others)

    monkeypatch.setattr(until, "_read", asking)
    while step := reader.step(0):
        read += step
    assert reader.is_through
    assert len(read) == 32
    assert asked["short"] < 3
    assert asked["long"] > 14


def test_lua_compares_and_increments_ids_to_their_last_digit(client: redis.Redis) -> None:
    last = 2**64 - 1
    numbers = [0, 8, 9, 10, 99, 10**15 - 1, 2**53, 2**53 + 1, 10**18, 10**18 + 1, last]
    ids = [(ms, sequence) for ms in numbers for sequence in numbers]
    after = client.register_script(IDS.body + "local t = {} for i, id in ipairs(ARGV) do t[i] = after(id) end return t")
    assert after(args=[f"{ms}-{sequence}" for ms, sequence in ids[:-1]]) == [
        (f"{ms}-{sequence + 1}" if sequence < last else f"{ms + 1}-0").encode() for ms, sequence in ids[:-1]
    ]
    before = client.register_script(
        IDS.body + "local n = 0 for i = 1, #ARGV - 1 do if before(ARGV[i], ARGV[i + 1]) then n = n + 1 end end return n"
    )
    assert before(args=["{}-{}".format(*id_) for id_ in ids]) == len(ids) - 1
    assert before(args=["{}-{}".format(*id_) for id_ in [*reversed(ids), ids[0]]]) == 0


@pytest.mark.parametrize("first", [1, 1_767_225_600_000_000_000])
def test_pending_entries_with_ids_above_luas_integers_are_kept(client: Any, first: int) -> None:
    ids = [client.xadd("topic", {"b": b"x" * 500}, id=f"{first + n}-0").decode() for n in range(200)]
    client.xgroup_create("topic", "group", "0")
    client.xreadgroup("group", "one", {"topic": ">"}, count=30)
    client.xack("topic", "group", *ids[1:30])
    retention = Retention(client)
    retention.declare("topic", Keep(4), inlet="inlet")
    trimmed = retention.trim("topic")
    left = [id_.decode() for id_, _ in client.xrange("topic")]
    assert trimmed is not None
    assert left[0] == ids[0]
    assert left[-4:] == ids[-4:]
    assert trimmed.removed == 200 - len(left)
    assert trimmed.spilled == len([id_ for id_ in ids[30:] if id_ not in left]) > 0


def test_bounded_read_leaves_redis_counts_at_its_end(real_redis: redis.Redis) -> None:
    ids = push_all(real_redis, "topic", range(10))
    reader = Consumer(real_redis, "topic", "group", until=ids[5], max_entries=4)
    assert [len(reader.step(0)) for _ in range(3)] == [4, 2, 0]
    group = groups_of(real_redis, "topic")["group"]
    assert (group["entries-read"], group["lag"]) == (6, 4)
