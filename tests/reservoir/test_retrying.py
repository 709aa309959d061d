"""Notes of the calls that runs try again: exact while a run lives, gone soon after it has died."""

from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tasks.reservoir import Reservoir, retrying
from tasks.reservoir.levels import Levels
from tasks.reservoir.retrying import RetryingNotes
from tests.support.waiting import wait_until

TOPICS = ["topic", "topic:dead:group", "other"]
CONSUMERS = [("group", "a"), ("group", "b"), ("Group", "a")]


def shown(client: redis.Redis) -> dict[tuple[str, str], int]:
    """Return the calls that are tried again by topic and group, as both ways of reading levels have them."""
    levels = Levels(client)
    found = {(level.topic, group.name): group.retrying for level in levels.of_all(TOPICS) for group in level.groups}
    for topic in TOPICS:
        if level := levels.of(topic):
            assert {(topic, group.name): group.retrying for group in level.groups} == {
                key: count for key, count in found.items() if key[0] == topic
            }
    return found


@given(
    st.lists(
        st.tuples(
            st.sampled_from(range(len(CONSUMERS))),
            st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 9), max_size=3),
        ),
        max_size=12,
    )
)
def test_each_group_shows_the_sum_of_its_consumers(
    fresh_client: Callable[[], redis.Redis], updates: list[tuple[int, dict[str, int]]]
) -> None:
    client = fresh_client()
    for topic in TOPICS:
        for group in ("group", "Group"):
            client.xgroup_create(topic, group, "0", mkstream=True)
    notes = [RetryingNotes(client, *who) for who in CONSUMERS]
    latest: dict[int, dict[str, int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrying, "_LEAST", 0.0)
        for who, counts in updates:
            notes[who].update(counts)
            latest[who] = counts
    assert shown(client) == {
        (topic, group): sum(latest.get(n, {}).get(topic, 0) for n, of in enumerate(CONSUMERS) if of[0] == group)
        for topic in TOPICS
        for group in ("group", "Group")
    }


def test_note_of_a_dead_run_lapses_while_another_keeps_its_own(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: Any = client
    Reservoir(client).push("topic", {"n": 1})
    client.xgroup_create("topic", "group", "0")
    monkeypatch.setattr(retrying, "_LIVE_MS", 50)
    monkeypatch.setattr(retrying, "_RENEW", 0.0)
    RetryingNotes(client, "group", "dead").update({"topic": 5})
    monkeypatch.setattr(retrying, "_LIVE_MS", 60_000)
    living = RetryingNotes(client, "group", "living")
    wait_until(lambda: living.update({"topic": 2}) or known.hlen("sluice:retrying:topic") == 1, "the note to lapse")
    [level] = Levels(client).of_all(["topic"])
    assert level.groups[0].retrying == 2


def test_unchanged_counts_are_noted_again_only_before_they_lapse(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = RetryingNotes(client, "group", "one")
    notes.update({"topic": 2})
    client.delete("sluice:retrying:topic")
    notes.update({"topic": 2})
    assert not client.exists("sluice:retrying:topic")
    monkeypatch.setattr(retrying, "_RENEW", 0.0)
    notes.update({"topic": 2})
    assert client.exists("sluice:retrying:topic")


@pytest.mark.odd_keys
def test_key_of_another_program_holds_up_neither_runs_nor_levels(client: redis.Redis) -> None:
    Reservoir(client).push("topic", {"n": 1})
    client.xgroup_create("topic", "group", "0")
    client.set("sluice:retrying:topic", "x")
    RetryingNotes(client, "group", "one").update({"topic": 2})
    [level] = Levels(client).of_all(["topic"])
    assert (level.unreadable, level.groups[0].retrying) == ("", 0)
