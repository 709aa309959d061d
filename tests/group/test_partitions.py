"""Groups on partitioned topics: letters, replays, rewinds and removal concern all partitions, and each only its own."""

from typing import Any

import pytest
import redis
from streamz import Stream

from tasks import Reservoir, SettingsError
from tasks.group.dead_letters import DeadLetters
from tasks.group.removal import ConsumersAliveError, drop_group, kept_by_group
from tasks.group.rewind import rewind
from tasks.reservoir.groups import groups_of
from tasks.reservoir.keys import lease_key, state_key, state_scope
from tasks.reservoir.partitions import partition_for, partition_topic
from tests.support.streams import run

P = 3
STREAMS = [partition_topic("bars", n) for n in range(P)]


def push(client: redis.Redis, count: int = 12) -> None:
    reservoir = Reservoir(client)
    reservoir.push_many("bars", [{"code": 600000 + n, "n": n} for n in range(count)], partitions=P, key="code")


def fail(client: redis.Redis) -> None:
    """Let a group make dead letters of all entries, with a consumer for each partition."""
    for stream in STREAMS:
        run(lambda source: source.pluck("missing").sink(print), client, stream)


def read(client: redis.Redis) -> list[int]:
    """Return the numbers that the group reads now, sorted."""
    seen: list[int] = []

    def build(source: Stream) -> None:
        source.pluck("n").sink(seen.append)

    for stream in STREAMS:
        run(build, client, stream)
    return sorted(seen)


def test_letters_of_all_partitions_are_shown_and_each_is_replayed_into_its_own(client: Any) -> None:
    push(client)
    fail(client)
    letters = DeadLetters(client, "bars", "group")
    chosen = letters.choose()
    assert len(letters) == len(chosen) == 12
    assert {letter.topic for letter in chosen} == set(STREAMS)
    newest = list(letters.newest(5))
    assert [letter.id for letter in newest] == sorted((letter.id for letter in chosen), reverse=True)[:5]
    [first] = [letter for letter in chosen if letter.topic == STREAMS[1]][:1]
    assert [outcome for _, outcome in letters.replay([first])] == ["replayed"]
    assert [client.xlen(f"{stream}:retry:group") for stream in STREAMS] == [0, 1, 0]
    assert len(letters) == 11
    assert dict.fromkeys(outcome for _, outcome in letters.replay(letters.choose())) == {"replayed": None}
    assert read(client) == list(range(12))


def test_letter_that_is_chosen_by_its_id_is_found_in_its_partition(client: redis.Redis) -> None:
    push(client)
    fail(client)
    letters = DeadLetters(client, "bars", "group")
    one = letters.choose()[5]
    found = letters.choose(ids=[one.id])
    assert one in found  # letters of other partitions may have the same id
    assert {letter.id for letter in found} == {one.id}
    [missing] = letters.choose(ids=["1-1"])
    assert [outcome for _, outcome in letters.discard([missing])] == ["not there"]
    assert [outcome for _, outcome in letters.discard([one])] == ["discarded"]
    assert len(letters) == 11


def test_rewind_sets_all_partitions_back_and_deletes_their_state(client: Any) -> None:
    push(client)
    assert read(client) == list(range(12))
    for n in range(P):
        client.hset(state_key(state_scope("group", n)), "version", 1)
    rewound = rewind(client, "bars", "group", "beginning")
    assert (rewound.acknowledged, rewound.alive, rewound.had_state) == (0, (), True)
    assert client.keys("sluice:state:*") == []
    assert read(client) == list(range(12))
    rewind(client, "bars", "group", "end")
    assert read(client) == []


def test_rewind_to_a_time_skips_no_entry_of_a_partition_that_ends_earlier(client: Any) -> None:
    push(client)
    reservoir = Reservoir(client)
    assert read(client) == list(range(12))
    last = reservoir.push("bars", {"code": 1, "n": 12}, partitions=P, key="code")
    rewind(client, "bars", "group", last)
    reservoir.push_many("bars", [{"code": code, "n": 13 + code} for code in range(12)], partitions=P, key="code")
    assert read(client) == list(range(12, 25))


def test_rewind_changes_no_partition_while_one_has_a_living_consumer(client: Any) -> None:
    push(client)
    assert read(client) == list(range(12))
    client.xgroup_createconsumer(STREAMS[-1], "group", "alive")
    client.set(lease_key("group", "alive"), "1", px=60_000)
    with pytest.raises(SettingsError, match="expected no consumer to be alive, got alive"):
        rewind(client, "bars", "group", "beginning")
    with pytest.raises(ConsumersAliveError):
        drop_group(client, "bars", "group")
    assert read_positions(client) == [client.xinfo_stream(stream)["last-generated-id"] for stream in STREAMS]
    client.delete(lease_key("group", "alive"))


def read_positions(client: redis.Redis) -> list[Any]:
    return [groups_of(client, stream)["group"]["last-delivered-id"] for stream in STREAMS]


def test_group_is_dropped_on_all_partitions_with_all_that_it_keeps(client: Any) -> None:
    push(client)
    fail(client)
    for n in range(P):
        client.hset(state_key(state_scope("group", n)), "version", 1)
    other = state_key(state_scope("group2", 0))
    client.hset(other, "version", 1)
    assert kept_by_group(client, "bars", "group").letters == 12
    drop_group(client, "bars", "group")
    left = [key for key in client.scan_iter() if b"group" in key]
    assert left == [other.encode()]
    assert all(groups_of(client, stream) == {} for stream in STREAMS)
    assert sum(client.xlen(stream) for stream in STREAMS) == 12
    with pytest.raises(SettingsError, match="expected a group of topic 'bars', which has none, got 'group'"):
        kept_by_group(client, "bars", "group")
    client.delete(other)


def test_every_partition_has_entries_in_these_tests() -> None:
    assert {partition_for(600000 + n, P) for n in range(12)} == set(range(P))
