"""Poison messages: entries that kill their consumers become dead letters, and no other entry in flight does."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tasks import Reservoir
from tests.support.streams import Killed, consumer, dead, drain, here, pending, push_all, read_all, survives

Fresh = Callable[[], redis.Redis]


@given(
    deadly=st.sets(st.integers(0, 39), min_size=1, max_size=2),
    window=st.integers(1, 3),
    max_deliveries=st.integers(2, 6),
)
def test_only_poison_messages_become_dead_letters_of_all_entries_in_flight(
    fresh_client: Fresh, deadly: set[int], window: int, max_deliveries: int
) -> None:
    """Each run reads ahead in forty entries and ends at a deadly one, with any number of other entries in flight."""
    client = fresh_client()
    ids = Reservoir(client).push_many("topic", [{"n": n} for n in range(40)])
    windows: list[tuple[int, ...]] = []
    deaths: Counter[int] = Counter()

    def die(n: int) -> int:
        if n in deadly:
            deaths[n] += 1
            raise Killed
        return n

    async def live() -> bool:
        source = here(client, max_deliveries=max_deliveries)
        kept = source.pluck("n").map(die).sliding_window(window, return_partial=False).sink(windows.append)
        survived = await survives(source, client, drain(source))
        del kept
        return survived

    while not asyncio.run(live()):
        pass
    assert {letter["dead:id"] for letter in dead(client)} == {ids[n] for n in deadly}
    assert deaths[min(deadly)] == max_deliveries
    others = [n for n in range(40) if n not in deadly]
    assert set(windows) == {tuple(others[i : i + window]) for i in range(len(others) - window + 1)}


def test_poison_candidates_are_returned_in_smaller_parts_after_each_death(client: redis.Redis) -> None:
    Reservoir(client).push_many("topic", [{"n": n} for n in range(40)])
    lives = []
    for _ in range(6):
        one = consumer(client)
        lives.append([(len(step), step[0].deliveries) for _ in range(41) if (step := one.step(0))])
        client.delete(one.membership.fence.lease)
    first = 8  # as long as sizes are not known
    assert lives == [
        [(first, 1), (32, 1)],
        [(first, 2), (32, 2)],
        [(first, 3), (16, 3), (16, 3)],
        [(1, 4)] * 40,
        [(1, 5)] * 40,
        [],
    ]


def test_lost_reply_counts_no_delivery_twice(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = push_all(client, "topic", range(3))
    victim = consumer(client)
    read_all(victim)
    client.delete(victim.membership.fence.lease)
    successor = consumer(client)
    count = successor.membership.count

    def lose(*args: Any) -> None:
        monkeypatch.undo()
        count(*args)
        raise redis.ConnectionError

    monkeypatch.setattr(successor.membership, "count", lose)
    with pytest.raises(redis.ConnectionError):
        successor.step(0)
    assert [(e.id, e.deliveries) for e in read_all(successor)] == [(id_, 2) for id_ in ids]


def test_entry_that_kills_every_consumer_becomes_a_dead_letter(client: redis.Redis) -> None:
    ids = push_all(client, "topic", ["deadly", "harmless"])
    for _ in range(3):
        victim = consumer(client, max_deliveries=3)
        assert read_all(victim)[0].id == ids[0]
        victim.ack("topic", ids[1:])
        client.delete(f"sluice:lease:group:{victim.membership.name}")
    assert read_all(consumer(client, max_deliveries=3)) == []
    [letter] = Reservoir(client).peek("topic:dead:group", 9)
    assert (letter["n"], letter["dead:id"], letter["dead:node"]) == ("deadly", ids[0], "delivery")
    assert pending(client) == []


def test_poison_search_ends_when_candidates_were_trimmed(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(3))
    victim = consumer(client)
    read_all(victim)
    client.xdel("topic", ids[1])
    client.delete(victim.membership.fence.lease)
    successor = consumer(client)
    assert [e.id for e in read_all(successor)] == [ids[0], ids[2]]
    assert not successor.is_searching_poison
