"""The reservoir: appends are atomic, in order and made once; levels show the state of topics."""

from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tasks import EncodeError, Reservoir, SettingsError
from tasks.reservoir.fence import Fence
from tasks.reservoir.reservoir import LARGE
from tests.support.streams import push_all, run

Fresh = Callable[[], redis.Redis]

pytestmark = pytest.mark.usefixtures("every_way_to_append")

fields = st.dictionaries(st.text(min_size=1, max_size=5), st.integers() | st.text(max_size=5), min_size=1, max_size=4)


@given(entries=st.lists(fields, max_size=20))
def test_pushed_entries_are_read_back_in_push_order(fresh_client: Fresh, entries: list[dict[str, Any]]) -> None:
    reservoir = Reservoir(fresh_client())
    ids = reservoir.push_many("topic", entries)
    read = reservoir.peek("topic", 100)
    assert [dict(entry) for entry in read] == entries
    assert [entry.id for entry in read] == ids


@given(entries=st.lists(fields, min_size=1, max_size=5), times=st.integers(1, 4))
def test_repeated_append_returns_the_same_ids_and_adds_nothing(
    fresh_client: Fresh, entries: list[dict[str, Any]], times: int
) -> None:
    reservoir = Reservoir(fresh_client())
    answers = [reservoir.append("topic", reservoir.encode(entries), record="sluice:push:x") for _ in range(times)]
    assert all(answer == answers[0] for answer in answers)
    assert [dict(entry) for entry in reservoir.peek("topic", 100)] == entries


@given(entries=st.lists(fields, max_size=5), at=st.integers(0, 5))
def test_one_unencodable_value_prevents_the_whole_push(
    fresh_client: Fresh, entries: list[dict[str, Any]], at: int
) -> None:
    client = fresh_client()
    with pytest.raises(EncodeError, match="'bad'"):
        Reservoir(client).push_many("topic", [*entries[:at], {"bad": object()}, *entries[at:]])
    assert client.keys("*") == []


@pytest.mark.parametrize("topic", ["", " a", "a:dead:b", "a:{0}", "a\n", "sluice:push:1", "a" * 201])
def test_bad_topic_name_is_refused_before_anything_is_pushed(client: redis.Redis, topic: str) -> None:
    with pytest.raises(SettingsError, match="expected a topic name"):
        Reservoir(client).push(topic, {"n": 1})
    assert client.keys("*") == []


def test_topic_is_trimmed_to_about_its_limit(client: redis.Redis) -> None:
    reservoir = Reservoir(client)
    for n in range(1_000):
        reservoir.push("topic", {"n": n}, keep=100)
    left = [entry["n"] for entry in reservoir.peek("topic", 1_000)]
    assert 100 <= len(left) <= 300
    assert left == list(range(1_000))[-len(left) :]


def test_keys_beside_a_topic_have_a_ttl_after_a_push(client: redis.Redis) -> None:
    Reservoir(client).push("topic", {"n": 1})
    beside = [key for key in client.keys("*") if key != b"topic"]
    assert beside
    assert all(key.startswith(b"sluice:") and client.pttl(key) > 0 for key in beside)


def test_levels_show_lag_pending_and_dead_letters_of_each_group(client: redis.Redis) -> None:
    push_all(client, "topic", range(5))
    run(lambda source: source.sink(lambda _: None), client)
    push_all(client, "topic", range(3))
    run(lambda source: source.pluck("missing").sink(print), client, group="failing")
    [level] = Reservoir(client).levels()
    assert (level.topic, level.length) == ("topic", 8)
    group, failing = sorted(level.groups, key=lambda g: g.name, reverse=True)
    assert (group.name, group.lag, group.pending, group.dead) == ("group", 3, 0, 0)
    assert (failing.name, failing.lag, failing.pending, failing.dead) == ("failing", 0, 0, 8)


def test_error_of_a_large_append_names_the_fault_without_the_payload(real_redis: redis.Redis) -> None:
    real_redis.set("topic", "no stream")
    with pytest.raises(redis.ResponseError, match="^WRONGTYPE") as caught:
        Reservoir(real_redis).push("topic", {"secret": b"secret" * 60_000})
    assert "secret" not in str(caught.value)


def test_refused_large_entry_is_not_appended(client: redis.Redis) -> None:
    reservoir = Reservoir(client)
    first = reservoir.push("topic", {"n": 0})
    lease = Fence("group", "sluice:lease:group:x", "token")
    client.set(lease.lease, "of another consumer", px=60_000)
    large = [{b"data": b"x" * LARGE}]
    assert reservoir.append("topic", large, record="sluice:push:x", fence=lease) is None
    assert reservoir.append("topic", large, record="sluice:push:x", expected="claimed") is None
    assert [entry.id for entry in reservoir.peek("topic", 2)] == [first]
    assert not client.exists("sluice:push:x")
    [level] = reservoir.levels()
    assert level.length == 1
