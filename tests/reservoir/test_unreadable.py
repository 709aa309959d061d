"""Keys of a wrong type beside a topic: only that topic becomes unreadable, and the reason is shown."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deployments.show.tables import levels_table
from tasks import Reservoir, SettingsError, UnreadableTopicError
from tasks.report.levels import markdown
from tasks.report.pipeline import topics_table
from tasks.reservoir.history import History
from tasks.reservoir.keys import LEVELS
from tasks.reservoir.levels import Levels, TopicLevel
from tasks.reservoir.retention import Retention
from tasks.reservoir.unreadable import named
from tests.support.streams import push_all

Fresh = Callable[[], redis.Redis]

# Writes of another program to the topic 'alpha' or to a key beside it, each with a part of the expected reason.
ODD: dict[str, tuple[Callable[[Any], object], str]] = {
    "dead letters": (lambda c: c.set("alpha:dead:group", "x"), "key 'alpha:dead:group' to be a stream, got a string"),
    "spilled": (lambda c: c.set("sluice:spilled:alpha", "x"), "key 'sluice:spilled:alpha' to be a hash, got a string"),
    "tally": (lambda c: (c.delete("sluice:tally:alpha"), c.rpush("sluice:tally:alpha", 1)), "got a list"),
    "index": (lambda c: (c.delete("sluice:index:alpha"), c.set("sluice:index:alpha", 1)), "to be a zset, got a string"),
    "groups": (lambda c: c.set("sluice:groups:alpha", "x"), "key 'sluice:groups:alpha' to be a hash"),
    "state": (lambda c: c.sadd("sluice:topic:alpha", "x"), "key 'sluice:topic:alpha' to be a hash, got a set"),
    "keep": (lambda c: c.hset("sluice:topic:alpha", "keep", "x"), "the field 'keep' of 'sluice:topic:alpha'"),
    "spilled field": (lambda c: c.hset("sluice:spilled:alpha", "group", "many"), "sluice:spilled:alpha, sluice:tally"),
    "gone field": (lambda c: c.hset("sluice:topic:alpha", "gone", "some"), "one of sluice:topic:alpha"),
}


def two_topics(client: redis.Redis) -> Reservoir:
    reservoir = Reservoir(client)
    for topic in ("alpha", "beta"):
        push_all(client, topic, range(3))
        client.xgroup_create(topic, "group", "0")
    return reservoir


def timeless(level: TopicLevel) -> TopicLevel:
    """Return a level without values that depend on the time or on the way bytes are counted."""
    return replace(
        level, bytes=None, rate=None, age=None, groups=tuple(replace(group, behind=0.0) for group in level.groups)
    )


@pytest.mark.odd_keys
@given(odd=st.sets(st.sampled_from(list(ODD)), min_size=1))
def test_key_of_a_wrong_type_makes_only_its_topic_unreadable(fresh_client: Fresh, odd: set[str]) -> None:
    client = fresh_client()
    reservoir = two_topics(client)
    [_, before] = reservoir.levels()
    for name in odd:
        try:
            ODD[name][0](client)
        except redis.ResponseError:  # two writes may concern the same key
            continue
    alpha, beta = reservoir.levels()
    assert alpha.topic == "alpha"
    assert alpha.unreadable.startswith("topic 'alpha' cannot be read: ")
    assert alpha.groups == ()
    assert [timeless(level) for level in Levels(client).of_all(["alpha", "beta", "gamma"])] == [
        alpha,
        timeless(beta),
    ]
    assert timeless(beta) == timeless(before)
    assert not beta.unreadable


@pytest.mark.odd_keys
@pytest.mark.parametrize("name", ODD)
def test_reason_names_the_wrong_key_and_every_table_shows_it(client: redis.Redis, name: str) -> None:
    reservoir = two_topics(client)
    ODD[name][0](client)
    levels = reservoir.levels()
    assert ODD[name][1] in levels[0].unreadable
    text = markdown(levels, [])
    assert "## Unreadable\n\n| topic | why |\n| --- | --- |\n| alpha | " in text
    assert "topic 'alpha' cannot be read: " in text
    assert re.search(r"\| beta \| group \| 3 \| [0-9.]+ s \| 0 \|", text)
    assert "cannot be read" in topics_table(levels[:1], "group")
    console = Console(width=100)
    with console.capture() as capture:
        console.print(levels_table(levels, width=100))
    assert [line.split()[0] for line in capture.get().splitlines()[2:]] == ["alpha", "beta"]
    assert "unreadable" in capture.get()


@pytest.mark.odd_keys
@pytest.mark.parametrize("name", ["tally", "groups", "state", "keep", "groups field"])
def test_trim_names_the_topic_of_a_wrong_key(client: redis.Redis, name: str) -> None:
    reservoir = two_topics(client)
    reservoir.push("alpha", {"n": 1}, keep=100)
    client.delete("sluice:groups:alpha", *["sluice:topic:alpha"] * (name == "state"))
    {**ODD, "groups field": (lambda c: c.hset("sluice:groups:alpha", "group", "yesterday"), "")}[name][0](client)

    def trim() -> None:
        retention = Retention(client)
        with named(client, "alpha"):
            retention.forget("alpha", after_ms=1_000_000)
            retention.trim("alpha")

    with pytest.raises(UnreadableTopicError, match="topic 'alpha' cannot be read: "):
        trim()


def test_outages_and_settings_errors_do_not_make_a_topic_unreadable(client: redis.Redis) -> None:
    for error in (
        redis.ConnectionError("away"),
        redis.exceptions.OutOfMemoryError("OOM"),
        SettingsError("no such group"),
    ):
        with pytest.raises(type(error)), named(client, "alpha"):
            raise error


def test_long_names_of_foreign_groups_are_shortened_and_stay_distinct(client: redis.Redis) -> None:
    push_all(client, "alpha", [1])
    for name in (b"x" * 10**6, b"x" * 10**6 + b"y", b"\xff" * 200, b"group"):
        client.xgroup_create("alpha", name, "0")
    [level] = Reservoir(client).levels()
    names = {group.name for group in level.groups}
    assert "group" in names
    assert len(names) == 4
    assert max(map(len, names)) == 128
    History(client).add([level])
    assert client.xrange(LEVELS)[0][1][b"groups"].__len__() < 1_000
    assert set(Retention(client).forget("alpha", after_ms=0)) == names


FOREIGN: list[dict[str, str]] = [
    {"a": "b"},
    {"groups": "no JSON"},
    {"groups": "1"},
    {"groups": '[["alpha"]]'},
    {"groups": '[["alpha", "group", "far", 0, 0]]'},
    {"groups": '[["no topic\\n```", "group", 1, 0, 0]]'},
    {"groups": '[["alpha", ["group"], 1, 0, 0]]'},
    {"groups": "[" * 5_000},
]


@pytest.mark.odd_keys
@given(places=st.lists(st.none() | st.sampled_from(FOREIGN), max_size=12), n=st.integers(1, 5))
def test_foreign_entries_among_the_samples_are_skipped(fresh_client: Fresh, places: list[Any], n: int) -> None:
    client = fresh_client()
    [level] = two_topics(client).levels()[:1]
    history, added = History(client), 0
    for place in places:
        if place is None:
            history.add([level])
            added += 1
        else:
            client.xadd(LEVELS, place)
    samples = history.latest(n)
    assert len(samples) == min(n, added)
    assert [sample.time for sample in samples] == sorted(sample.time for sample in samples)
    assert all(sample.lags == {("alpha", "group"): 3} for sample in samples)


@pytest.mark.odd_keys
def test_unreadable_topic_keeps_its_counts_in_the_samples(client: redis.Redis) -> None:
    reservoir, history = two_topics(client), History(client)
    client.hset("sluice:spilled:alpha", mapping={"group": 7, "dead:group": 5})
    history.add(reservoir.levels())
    client.hset("sluice:topic:alpha", "gone", "x")
    history.add(reservoir.levels(), *history.latest())
    [sample] = history.latest()
    assert (sample.dead["alpha", "group"], sample.spilled["alpha", "group"]) == (5, 7)
    assert sample.lags == {("alpha", "group"): None, ("beta", "group"): 3}
