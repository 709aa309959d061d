"""Appends to a partitioned topic: all partitions or none, once, and in order per key."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tasks import EncodeError, Reservoir, SettingsError, TopicFullError
from tasks.pump.ticks import Beat
from tasks.reservoir.fence import Fence
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import partitions_key, topic_keys
from tasks.reservoir.partitions import Partitioning, declare, declared, partition_for, partition_topic
from tests.support.streams import lossy

Fresh = Callable[[], redis.Redis]

P = 3
BY = Partitioning(P, "code")
MAX_ID = "18446744073709551615-18446744073709551615"

codes = st.sampled_from(["600000", "600001", "600002", "600003", "", 7, 7.5, None])
small = st.fixed_dictionaries({"code": codes, "n": st.integers(0, 99)})
texts = st.sampled_from(["600000", "600001", "600002", "", None])
frames = st.lists(st.tuples(texts, st.integers(0, 99)), min_size=1, max_size=6).map(
    lambda rows: {
        "rows": pd.DataFrame({"code": pd.array([code for code, _ in rows], dtype="str"), "n": [n for _, n in rows]})
    }
)
pushes = st.lists(st.lists(small | frames, min_size=1, max_size=4), max_size=6)


def rows_of(client: redis.Redis, topic: str = "bars", count: int = P) -> list[list[tuple[Any, Any]]]:
    """Return the code and the number of each small entry and each row, by partition, in order."""
    found: list[list[tuple[Any, Any]]] = []
    for n in range(count):
        read = Reservoir(client).peek(partition_topic(topic, n), 1_000)
        found.append([row for entry in read for row in as_rows(dict(entry))])
    return found


def as_rows(fields: dict[str, Any]) -> list[tuple[Any, Any]]:
    if "rows" not in fields:
        return [(fields["code"], fields["n"])]
    return [(missing_as_none(code), n) for code, n in zip(fields["rows"]["code"], fields["rows"]["n"], strict=True)]


def missing_as_none(code: Any) -> Any:
    return None if isinstance(code, float) and math.isnan(code) else code


def expected(entries: list[dict[str, Any]]) -> list[list[tuple[Any, Any]]]:
    """Return what each partition has to hold after the push of these entries."""
    found: list[list[tuple[Any, Any]]] = [[] for _ in range(P)]
    for row in (row for fields in entries for row in as_rows(fields)):
        found[partition_for(row[0], P)].append(row)
    return found


def lengths(client: Any) -> list[int]:
    return [client.xlen(partition_topic("bars", n)) for n in range(P)]


@given(pushes)
def test_entries_and_rows_are_in_the_partition_of_their_key_in_order(
    fresh_client: Fresh, pushed: list[list[dict[str, Any]]]
) -> None:
    client = fresh_client()
    reservoir = Reservoir(client)
    for entries in pushed:
        ids = reservoir.push_many("bars", entries, partitions=P, key="code")
        assert len(ids) == sum(len({partition_for(code, P) for code, _ in as_rows(one)}) for one in entries)
    assert rows_of(client) == expected([one for entries in pushed for one in entries])
    assert not client.exists("bars")


@given(entries=st.lists(small | frames, min_size=1, max_size=5), times=st.integers(1, 3))
def test_repeated_append_by_key_returns_the_same_ids_and_adds_nothing(
    fresh_client: Fresh, entries: list[dict[str, Any]], times: int
) -> None:
    client = fresh_client()
    reservoir = Reservoir(client)
    encoded = reservoir.encode(entries, by=BY)
    answers = [reservoir.append("bars", encoded, record="sluice:push:x", by=BY) for _ in range(times)]
    assert all(answer == answers[0] for answer in answers)
    assert rows_of(client) == expected(entries)


# What happens to one tick: its push succeeds, its reply is lost and it is sent again, its run is killed before or after the push and a
# newer run tries the same tick, or a newer run claims the tick before.
FATES = ["pushed", "reply lost", "killed before", "killed after"]


@given(st.lists(st.tuples(st.lists(small | frames, min_size=1, max_size=3), st.sampled_from(FATES)), max_size=8))
def test_tick_is_pushed_to_all_partitions_or_none_and_once(
    fresh_client: Fresh, ticks: list[tuple[list[dict[str, Any]], str]]
) -> None:
    client = fresh_client()
    losing = lossy(client)
    reservoir = Reservoir(client)
    beat = Beat(reservoir, "bars", "inlet", every=1.0, by=BY)
    reservoir.push(
        "other", {"code": 1}, partitions=P, key="code"
    )  # the server knows the script: the push is one command
    reservoir.client = losing
    reservoir._append_by_key._run.registered_client = losing
    done: list[dict[str, Any]] = []
    beat.start(0.0)
    for tick, (entries, fate) in enumerate(ticks, 1):
        assert beat.claim(tick, insist=True) == "claimed"
        encoded = reservoir.encode(entries, by=BY)
        if fate == "killed before":
            beat.start(tick + 0.0)  # a run with another token
            assert beat.push(tick, encoded) is None
            continue
        if fate != "pushed":
            losing.loses_in = 1
            with pytest.raises(redis.ConnectionError):
                beat.push(tick, encoded)
        done += entries
        if fate == "killed after":
            beat.start(tick + 0.0)
        first = beat.push(tick, encoded)
        assert first is not None
        assert beat.push(tick, encoded) == first
        assert rows_of(client) == expected(done)
    assert rows_of(client) == expected(done)


def has_unread(client: redis.Redis, topic: str) -> bool:
    """Return whether the topic's only group has not read everything, also on Redis 6.2, which reports no lag."""
    (group,) = client.xinfo_groups(topic)
    return bool(client.xrange(topic, b"(" + group["last-delivered-id"], count=1))


@given(
    pushed=st.lists(st.lists(small, min_size=1, max_size=4), max_size=12),
    reads=st.lists(st.tuples(st.integers(0, P - 1), st.integers(1, 5)), max_size=12),
)
def test_nothing_is_pushed_if_one_partition_is_full(
    fresh_client: Fresh, pushed: list[list[dict[str, Any]]], reads: list[tuple[int, int]]
) -> None:
    client = fresh_client()
    reservoir = Reservoir(client)
    keep = Keep(entries=P, when_full="wait")  # one entry a partition
    for n in range(P):
        client.xgroup_create(partition_topic("bars", n), "group", "0", mkstream=True)
    done: list[dict[str, Any]] = []
    for at, entries in enumerate(pushed):
        heavy = [{**one, "x": b"x" * 5_000} for one in entries]  # a node of its own, which is removed alone
        before = lengths(client)
        try:
            reservoir.push_many("bars", heavy, keep=keep, partitions=P, key="code")
        except TopicFullError:
            # Retention may have removed what was read, and nothing came.
            assert all(after <= length for after, length in zip(lengths(client), before, strict=True))
            assert any(has_unread(client, partition_topic("bars", n)) for n in range(P))
        else:
            done += entries
        for n, count in reads[at : at + 1]:
            client.xreadgroup("group", "c", {partition_topic("bars", n): ">"}, count=count, noack=True)
    held = rows_of(client)
    for rows, all_rows in zip(held, expected(done), strict=True):
        assert rows == all_rows[len(all_rows) - len(rows) :]


def test_full_partition_keeps_the_others_empty(client: redis.Redis) -> None:
    reservoir = Reservoir(client)
    keep = Keep(entries=P, when_full="wait")
    of = {partition_for(code, P): code for code in ("600000", "600001", "600002", "600003", "600004", "600005")}
    assert len(of) == P
    client.xgroup_create(partition_topic("bars", 1), "group", "0", mkstream=True)
    with pytest.raises(TopicFullError, match=r"topic 'bars' is full: .* read all but 3 \(wait\); nothing was pushed"):  # noqa: PT012
        for n in range(1_000):
            reservoir.push("bars", {"code": of[1], "n": n, "x": b"x" * 5_000}, keep=keep, partitions=P, key="code")
    before = lengths(client)
    with pytest.raises(TopicFullError):
        reservoir.push_many("bars", [{"code": of[n], "n": n} for n in range(P)], keep=keep, partitions=P, key="code")
    assert lengths(client) == before
    reservoir.push_many("bars", [{"code": of[n], "n": n} for n in (0, 2)], keep=keep, partitions=P, key="code")


def test_limits_of_a_topic_are_shared_by_its_partitions(client: redis.Redis) -> None:
    reservoir = Reservoir(client)
    for n in range(1_200):
        reservoir.push("bars", {"code": n, "n": n}, keep=300, partitions=P, key="code")
    assert 300 <= sum(lengths(client)) <= 900
    assert all(client.hget(topic_keys(partition_topic("bars", n)).state, "keep") == b"100 0 0 0" for n in range(P))


FAULTS = ["string", "largest id", *(f"{name} of another type" for name in ("state", "tally"))]


@pytest.mark.odd_keys
@pytest.mark.parametrize("fault", FAULTS)
def test_append_that_one_partition_refuses_leaves_nothing_in_the_others(client: redis.Redis, fault: str) -> None:
    reservoir = Reservoir(client)
    last = partition_topic("bars", P - 1)
    match fault.split(" ", maxsplit=1)[0]:
        case "string":
            client.set(last, "of another program")
        case "largest":
            client.xadd(last, {"a": "b"}, id=MAX_ID)
            client.xdel(last, MAX_ID)
        case name:
            client.rpush(getattr(topic_keys(last), name), "a")
    entries = [{"code": n, "n": n} for n in range(20)]
    encoded = reservoir.encode(entries, by=BY)
    with pytest.raises(redis.ResponseError, match="topic 'bars': nothing was pushed") as caught:
        reservoir.append("bars", encoded, record="sluice:push:x", keep=3, by=BY)
    assert "bars:{2}" in str(caught.value)
    assert [client.xlen(partition_topic("bars", n)) for n in range(P - 1)] == [0, 0]
    assert not client.exists("sluice:push:x")
    client.delete(last, *topic_keys(last))
    reservoir.append("bars", encoded, record="sluice:push:x", keep=3, by=BY)
    assert rows_of(client) == expected(entries)


def test_append_by_key_is_refused_if_the_lease_is_anothers(client: redis.Redis) -> None:
    reservoir = Reservoir(client)
    fence = Fence("group", "sluice:lease:group:x", "token")
    encoded = reservoir.encode([{"code": 1, "n": 1}], by=BY)
    client.set(fence.lease, "of another consumer", px=60_000)
    assert reservoir.append("bars", encoded, record="sluice:push:x", fence=fence, by=BY) is None
    assert reservoir.append("bars", encoded, record="sluice:push:x", expected="claimed", by=BY) is None
    assert not client.exists("bars:{0}", "bars:{1}", "bars:{2}", "sluice:push:x")
    client.set(fence.lease, "token", px=60_000)
    assert reservoir.append("bars", encoded, record="sluice:push:x", field=b"f", fence=fence, by=BY)
    assert client.hkeys("sluice:push:x") == [b"f"]
    client.delete("sluice:push:x")


@pytest.mark.parametrize("given_", [{"partitions": 4, "key": "code"}, {"partitions": P, "key": "name"}, {}], ids=str)
def test_push_with_another_partitioning_is_refused(client: redis.Redis, given_: dict[str, Any]) -> None:
    reservoir = Reservoir(client)
    reservoir.push("bars", {"code": 1, "name": 1}, partitions=P, key="code")
    with pytest.raises(SettingsError, match="nothing was pushed"):
        reservoir.push("bars", {"code": 2, "name": 2}, **given_)
    assert sum(lengths(client)) == 1
    assert not client.exists("bars", "bars:{3}")


def test_partitioned_push_to_a_plain_topic_is_refused(client: redis.Redis) -> None:
    reservoir = Reservoir(client)
    reservoir.push("bars", {"code": 1})
    with pytest.raises(SettingsError, match="got one with entries that are in no partition"):
        reservoir.push("bars", {"code": 1}, partitions=P, key="code")
    assert declared(client, "bars") is None
    assert client.xlen("bars") == 1


def test_first_push_declares_the_partitioning_again_after_a_loss(client: redis.Redis) -> None:
    declare(client, "bars", BY)
    client.delete(partitions_key("bars"))
    Reservoir(client).push("bars", {"code": 1}, partitions=P, key="code")
    assert declared(client, "bars") == BY


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"n": 1}, "expected the field 'code', the key of the topic's partitions, got an entry without it"),
        ({"code": [1]}, "field 'code': expected a key that is text"),
        ({"rows": pd.DataFrame({"n": [1]})}, "field 'rows': expected a frame with one column 'code'"),
    ],
    ids=["no field", "a list", "no column"],
)
def test_entry_without_a_key_is_refused_with_what_to_do(client: redis.Redis, entry: dict[str, Any], why: str) -> None:
    with pytest.raises(EncodeError, match=f"{why}.*; nothing was pushed; "):
        Reservoir(client).push_many("bars", [{"code": 1}, entry], partitions=P, key="code")
    assert client.keys() == []


def test_partitions_without_a_key_are_refused(client: redis.Redis) -> None:
    with pytest.raises(SettingsError, match="partitions, key: expected both or neither, got 3 and None"):
        Reservoir(client).push("bars", {"code": 1}, partitions=P)
