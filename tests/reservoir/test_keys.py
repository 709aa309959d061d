"""Every key has one place where it is built, one row in the table, and one meaning."""

import inspect
import re
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tasks.reservoir import keys
from tests.support.keys import leaks, table

ROOT = Path(__file__).resolve().parents[2]

groups = st.from_regex(r"\A[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,8}[A-Za-z0-9_])?\Z")
# Topics consist of parts of keys, so that two keys collide wherever they can.
topics = st.lists(
    st.sampled_from(["a", "b", ":", "dead", "retry", "open", "1", "1-0", "{1}", ":dead:", ":retry:"]), min_size=1
).map("".join)
ids = st.from_regex(r"\A[0-9]{1,2}-[0-9]\Z")


def all_keys(topic: str, group: str, consumer: str, id_: str) -> dict[str, str]:
    """Return all keys of a topic, a group, a consumer and an entry by descriptions of their owners."""
    of_topic = zip(keys.TopicKeys._fields, keys.topic_keys(topic), strict=True)
    return {
        **{f"{field} {topic}": key for field, key in of_topic if field != "topic"},
        f"letters {topic}": keys.letter_counts(topic),
        f"retrying {topic}": keys.retrying_key(topic),
        f"partitions {topic}": keys.partitions_key(topic),
        f"dead {group} {topic}": keys.dead_topic(topic, group),
        f"retry {group} {topic}": keys.retry_topic(topic, group),
        f"lease {group} {consumer}": keys.lease_key(group, consumer),
        f"result {group} {id_} {topic}": keys.result_record(group, topic, id_),
    }


names = st.tuples(topics, groups, groups, ids)


@given(one=names, other=names)
def test_different_things_never_share_a_key(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    a, b = all_keys(*one), all_keys(*other)
    shared = set(a.values()) & set(b.values())
    assert {what for what, key in a.items() if key in shared} == {what for what, key in b.items() if key in shared}
    assert len(set(a.values())) == len(a)


@given(topics, groups, groups)
def test_retry_topic_is_mapped_back_to_its_topic_for_its_group_only(topic: str, group: str, other: str) -> None:
    stream = keys.retry_topic(topic, group)
    assert keys.retried_topic(stream, group) == topic
    if other != group:
        assert keys.retried_topic(stream, other) is None


def test_key_table_has_one_row_for_each_built_key() -> None:
    beat = keys.beat_key("quotes:0123456789abcdef")
    built = [
        *keys.topic_keys("topic")[1:],
        keys.letter_counts("topic"),
        keys.retrying_key("topic"),
        keys.partitions_key("topic"),
        keys.lease_key("group", "consumer"),
        keys.result_record("group", "topic", "1-0"),
        keys.state_key("group"),
        keys.cut_guard("group"),
        keys.members_key("group"),
        keys.push_record(),
        keys.once_record(f"{beat}:2026-01-01T00:00:00+00:00"),
        keys.replay_record(),
        beat,
        keys.open_claims(beat),
        keys.tick_record(beat, 7),
        keys.alive_key(beat, "1"),
        keys.cursor_key("quotes:0123456789abcdef"),
        *keys.limit_keys("api"),
        keys.LEVELS,
        *keys.poll_keys("0123456789ab"),
    ]
    rows = [
        [row.name for row in table() if row.pattern.fullmatch(key) and row.name.startswith("sluice:")] for key in built
    ]
    assert [len(found) for found in rows] == [1] * len(built)
    ours = [row.name for row in table() if row.name.startswith("sluice:")]
    assert sorted(name for [name] in rows) == sorted(ours)
    of_topic = [
        row.type
        for row in table()
        if row.name in {f"sluice:{field}:<topic>" for field in ("topic", "index", "groups", "spilled", "tally")}
    ]
    assert of_topic == list(keys.TOPIC_KEY_TYPES[1:])


def test_key_names_are_those_of_0_1_0() -> None:
    assert keys.topic_keys("market") == (
        "market",
        "sluice:topic:market",
        "sluice:index:market",
        "sluice:groups:market",
        "sluice:spilled:market",
        "sluice:tally:market",
    )
    assert keys.dead_topic("market", "movers") == "market:dead:movers"
    assert keys.retry_topic("market", "movers") == "market:retry:movers"
    assert keys.lease_key("movers", "one") == "sluice:lease:movers:one"
    assert keys.result_record("movers", "market", "1-0") == "sluice:output:movers:market:1-0"
    assert keys.beat_key("quotes:5f") == "sluice:beat:quotes:5f"
    assert keys.tick_record("sluice:beat:quotes:5f", 7) == "sluice:beat:quotes:5f:7"
    assert keys.open_claims("sluice:beat:quotes:5f") == "sluice:beat:quotes:5f:open"
    assert keys.alive_key("sluice:beat:quotes:5f", "9") == "sluice:beat:quotes:5f:alive:9"
    assert keys.LEVELS == "sluice:levels"


def test_no_other_module_spells_a_key() -> None:
    spelled = []
    for file in sorted(file for floor in ("tasks", "flows", "deployments") for file in (ROOT / floor).rglob("*")):
        if file.suffix not in (".py", ".lua") or file == Path(inspect.getfile(keys)):
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if re.search(
                r"""f?["']sluice:[a-z]|f["'][^"']*:(?:dead|retry):|["']:(?:dead|retry|alive|open):?["']""", line
            ):
                spelled.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()}")
    assert spelled == []


@pytest.mark.odd_keys
def test_leak_check_finds_unknown_names_wrong_types_and_missing_ttls(client: redis.Redis) -> None:
    client.set("sluice:unheard-of", 1, px=9_999)
    client.set("sluice:topic:topic", 1, px=9_999)
    client.set("sluice:tally:topic", 1)
    client.set("sluice:push:1", 1, px=9_999)
    client.set("of another program", 1)
    assert leaks(client) == [
        "'sluice:tally:topic' has no TTL",
        "'sluice:topic:topic', a string: expected sluice:topic:<topic>, a hash",
        "'sluice:unheard-of', a string: expected a key of the table",
    ]
