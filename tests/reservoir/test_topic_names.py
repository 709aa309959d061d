"""Which names topics can have, and that different names never share what is stored for them."""

import hashlib
import unicodedata
from collections.abc import Callable

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from tasks import Reservoir, SettingsError
from tasks.reservoir.entry import Entry
from tasks.reservoir.keys import dead_topic, derived_from, matching, result_of, result_record, retry_topic
from tasks.reservoir.results import forget_results, records_of, result_name
from tasks.reservoir.topic_names import check_topic, is_topic
from tests.support.topics import MADE_OF, topic_names

Fresh = Callable[[], redis.Redis]

any_text = st.lists(st.sampled_from(MADE_OF), max_size=6).map("".join) | st.text(max_size=250)
groups = st.sampled_from(["g", "dead", "retry", "a", "1-0", "a.b"])
ids = st.sampled_from(["1-0", "11-0", "1-1"])

NOT_PRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # Unicode's categories; 'Zs', spaces, apart from ' '


def is_a_name(text: str) -> bool:
    """Return whether a topic can be named so, by the rules in docs/entries.md."""
    kinds = {unicodedata.category(one) for one in text if one != " "}
    if not text or kinds & (NOT_PRINTABLE | {"Zs"}):
        return False
    if len(text.encode()) > 200 or " " in (text[0], text[-1]) or text.startswith("sluice:"):
        return False
    head, _, last = text.rpartition(":")
    is_partition = bool(head) and last[:1] == "{" and last[-1:] == "}" and last[1:-1].isascii() and last[1:-1].isdigit()
    is_group = last.isascii() and all(one.isalnum() or one in "_.-" for one in last) and last.strip(".-") == last != ""
    is_derived = head.endswith((":dead", ":retry")) and bool(head.rpartition(":")[0]) and is_group and len(last) <= 128
    return not is_partition and not is_derived


@given(any_text)
@example("market:dead:movers")
@example("a:{12}")
@example("{12}")
@example(":dead:movers")
@example("orders:dead:two words")
@example("é" * 100)
@example("é" * 101)
def test_topic_has_a_name_exactly_as_the_rules_allow(text: str) -> None:
    if is_a_name(text):
        assert check_topic(text) == text
        assert is_topic(text)
    else:
        with pytest.raises(SettingsError, match="expected a topic name"):
            check_topic(text)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("market:dead:movers", "this is where the dead letters of group 'movers' on topic 'market' are; rename"),
        ("market:retry:movers", "this is where the retries of group 'movers' on topic 'market' are; rename"),
        ("market:{3}", "this is reserved for partition 3 of topic 'market'; rename"),
        ("sluice:levels", "that does not start with 'sluice:'"),
        ("two\nlines", r"of printable characters, got 'two\nlines'"),
        (" market", "without spaces at its ends"),
        ("x" * 201, "of 1 to 200 bytes in UTF-8"),
        (b"market", "as a str, got a bytes"),
    ],
)
def test_refused_name_is_explained(name: str, why: str) -> None:
    with pytest.raises(SettingsError) as refused:
        check_topic(name)
    assert why in str(refused.value)


@given(topic_names, st.lists(st.tuples(st.sampled_from([dead_topic, retry_topic]), groups), max_size=3), st.booleans())
def test_streams_that_belong_to_a_topic_can_be_read(topic: str, derived: list, is_partition: bool) -> None:
    stream = f"{topic}:{{7}}" if is_partition else topic
    for derive, group in derived:
        stream = derive(stream, group)
    assert check_topic(stream, derived=True) == stream
    assert is_topic(stream)


@given(topic_names, groups)
def test_topic_of_dead_letters_leads_back_to_its_topic(topic: str, group: str) -> None:
    assert derived_from(dead_topic(topic, group)) == (topic, "dead", group)
    assert derived_from(retry_topic(topic, group)) == (topic, "retry", group)
    assert derived_from(topic) is None
    assert result_of(result_record(group, topic, "1-0")) == (group, topic, "1-0")


@given(st.lists(topic_names, min_size=1, max_size=5, unique=True))
def test_pattern_of_a_name_matches_that_key_alone(fresh_client: Fresh, names: list[str]) -> None:
    client = fresh_client()
    client.mset(dict.fromkeys(names, "x"))
    for name in names:
        assert [key.decode() for key in client.scan_iter(match=matching(name))] == [name]


def entry_of(topic: str, id_: str) -> Entry:
    return Entry({}, topic=topic, id=id_)


inputs = st.lists(st.tuples(topic_names, ids), min_size=1, max_size=2)
results = st.tuples(topic_names, st.sampled_from(["map", "map 1", "map 1 a/1-0"]), st.integers(0, 2), inputs)


@given(results, results)
@example(("a", "n", 0, [("b", "1-0"), ("c", "1-0")]), ("a", "n", 0, [("b/1-0 c", "1-0")]))
@example(("a n", "n", 0, [("b", "1-0")]), ("a", "n n", 0, [("b", "1-0")]))
def test_different_results_have_different_names(one: tuple, other: tuple) -> None:
    names = [
        result_name([entry_of(*each) for each in made_of], into=into, node=node, ordinal=ordinal)
        for into, node, ordinal, made_of in (one, other)
    ]
    assert (names[0] == names[1]) == (one == other)


def test_results_of_0_1_0_keep_their_names() -> None:
    made_of = [entry_of("market", "1-0"), entry_of("machine.a-b_c", "2-7")]
    expected = hashlib.blake2b(b"busiest map(f) 3 market/1-0 machine.a-b_c/2-7", digest_size=16).digest()
    assert result_name(made_of, into="busiest", node="map(f)", ordinal=3) == expected


@given(st.lists(st.tuples(groups, topic_names, ids), min_size=1, max_size=6, unique=True))
@example([("g", "a", "1-0"), ("g", "a:1", "5-0"), ("g", "*", "1-0"), ("g", "?", "1-0"), ("g", "[0-9]*", "1-0")])
def test_records_of_a_topic_are_its_own_alone(fresh_client: Fresh, made: list[tuple[str, str, str]]) -> None:
    client = fresh_client()
    kept = {result_record(*one): one for one in made}
    for key in kept:
        client.hset(key, "x", "y")
        client.pexpire(key, 60_000)
    for group, topic in {one[:2] for one in made}:
        own = {key for key, one in kept.items() if one[:2] == (group, topic)}
        assert {key.decode() for key in records_of(client, group, topic)} == own
    group, topic, _ = made[0]
    forget_results(client, group, topic)
    left = {key.decode() for key in client.scan_iter()}
    assert left == {key for key, one in kept.items() if one[:2] != (group, topic)}


@pytest.mark.odd_keys
def test_levels_and_peek_show_streams_of_other_programs(client: redis.Redis) -> None:
    names = [
        "bull:{mail}:events", "jobs:retry:high", "jobs:dead", "orders:eu:{0}", "a b", "行情", "*", "x:dead:my letters",
    ]  # fmt: skip
    for name in names:
        client.xadd(name, {"n": name})
    client.xgroup_create("jobs:retry:high", "workers of mine", "0")
    for name in (b"\xff\xfe", b" space", b"two\nlines", b"sluice:levels", b"x" * 201):
        client.xadd(name, {"n": 1})
    reservoir = Reservoir(client)
    assert reservoir.topics() == sorted(names)
    levels = {level.topic: level for level in reservoir.levels()}
    assert {name: level.length for name, level in levels.items()} == dict.fromkeys(names, 1)
    assert [group.name for group in levels["jobs:retry:high"].groups] == ["workers of mine"]
    assert [reservoir.peek(name)[0]["n"] for name in names] == names  # type: ignore[index]


def test_levels_show_dead_letters_of_a_missing_group_alone(client: redis.Redis) -> None:
    for stream in ("market", "market:dead:movers", "market:dead:gone"):
        client.xadd(stream, {"n": 1})
    client.xgroup_create("market", "movers", "0")
    assert [level.topic for level in Reservoir(client).levels()] == ["market", "market:dead:gone"]
