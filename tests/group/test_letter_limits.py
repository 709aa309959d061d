"""Limits on dead letters, in number and in bytes, compared with a model; and discarded letters."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from deployments.show.tables import levels_table
from tasks import Reservoir, SettingsError, UnreadableTopicError
from tasks.group.dead_letter_limits import MAX_EXCEPTION, MAX_TRACEBACK, DeadLetterLimits
from tasks.group.dead_letters import DeadLetters
from tests.group.test_dead_letters import breaking
from tests.support.letters import failing
from tests.support.streams import consumer, dead, push_all, read_all, run

Fresh = Callable[[], redis.Redis]

DEAD = "topic:dead:group"
BOUNDS = DeadLetterLimits(max_letters=5, max_bytes=1_500, min_bytes=500)

places = st.sets(st.integers(0, 6), max_size=4)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("fail"), st.integers(0, 2_000)),
        st.tuples(st.just("fail"), st.integers(0, 200)),
        st.tuples(st.sampled_from(["discard", "replay", "delete"]), places),
        st.tuples(st.just("keep"), st.sampled_from([0, 1, 900, 10_000])),
        st.tuples(st.just("forget the counts"), st.none()),
    ),
    max_size=30,
)


class Letters:
    """The dead letters of one group on a server, and a model of them."""

    def __init__(self, client: redis.Redis) -> None:
        self.client: Any = client
        self.consumer = consumer(client)
        self.expected: list[tuple[str, int]] = []
        self.dropped = 0
        self.limit = BOUNDS.max_bytes

    def there(self) -> list[tuple[str, int]]:
        """Return the letters there are, with their bytes."""
        found = self.client.xrange(DEAD)
        return [(id_.decode(), sum(len(n) + len(v) for n, v in fields.items())) for id_, fields in found]

    def fail(self, size: int) -> None:
        [id_] = push_all(self.client, "topic", ["x" * size])
        read_all(self.consumer)
        assert self.consumer.membership.dead_letter("topic", id_, {}, keep=BOUNDS)
        self.expected.append(self.there()[-1])
        while len(self.expected) > 1 and (
            len(self.expected) > BOUNDS.max_letters or sum(size for _, size in self.expected) > self.limit
        ):
            del self.expected[0]
            self.dropped += 1

    def take(self, how: str, at: set[int]) -> None:
        ids = [id_ for place, (id_, _) in enumerate(self.expected) if place in at]
        if how == "delete":
            if ids:
                self.client.xdel(DEAD, *ids)
        elif self.expected:
            letters = DeadLetters(self.client, "topic", "group")
            chosen = letters.choose(ids=[*ids, "1-1"])
            taken = letters.discard(chosen) if how == "discard" else letters.replay(chosen, into_windows=True)
            became = {letter.id: outcome for letter, outcome in taken}
            assert became == {"1-1": "not there"} | dict.fromkeys(ids, f"{how}ed")
        self.expected = [(id_, size) for id_, size in self.expected if id_ not in ids]

    def keep(self, topic_bytes: int) -> None:
        self.client.hset("sluice:topic:topic", "keep", f"0 0 {topic_bytes} 0")
        self.client.pexpire("sluice:topic:topic", 60_000)
        bounded = min(BOUNDS.max_bytes, max(BOUNDS.min_bytes, topic_bytes))
        self.limit = bounded if topic_bytes else BOUNDS.max_bytes

    def check(self) -> None:
        assert self.there() == self.expected
        assert int(self.client.hget("sluice:spilled:topic", "dead:group") or 0) == self.dropped


@given(operations)
def test_newest_letters_are_kept_within_both_limits_and_drops_are_counted(fresh_client: Fresh, operations: Any) -> None:
    letters = Letters(client := fresh_client())
    read_all(letters.consumer)
    for what, how in operations:
        if what == "fail":
            letters.fail(how)
        elif what == "keep":
            letters.keep(how)
        elif what == "forget the counts":
            client.delete("sluice:letters:topic")
        else:
            letters.take(what, how)
        letters.check()
    letters.keep(0)
    letters.fail(1)
    letters.check()
    counts = client.hget("sluice:letters:topic", "group")
    assert counts == f"{len(letters.expected)} {sum(size for _, size in letters.expected)}".encode()
    assert client.pttl("sluice:letters:topic") > 0


def test_letters_from_before_the_limits_are_measured_and_dropped(client: redis.Redis) -> None:
    letters = Letters(client)
    read_all(letters.consumer)
    for n in range(20):
        client.xadd(DEAD, {"n": "x" * 100 * n})
    before = letters.there()
    letters.fail(10)
    assert letters.there()[:-1] == before[len(before) - len(letters.there()) + 1 :]
    assert sum(size for _, size in letters.there()) <= BOUNDS.max_bytes
    assert client.hget("sluice:spilled:topic", "dead:group") == str(21 - len(letters.there())).encode()


@pytest.mark.odd_keys
def test_dead_letters_ignore_a_malformed_keep_of_the_topic(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(2))
    one = consumer(client)
    read_all(one)
    client.hset("sluice:topic:topic", "keep", "x")
    client.pexpire("sluice:topic:topic", 60_000)
    assert one.dead_letter("topic", ids[0], node="map")
    client.delete("sluice:topic:topic")
    client.set("sluice:topic:topic", "x")
    assert one.dead_letter("topic", ids[1], node="map")
    assert [letter["dead:id"] for letter in dead(client)] == ids


def test_long_exceptions_and_tracebacks_keep_their_beginning_and_end(client: redis.Redis) -> None:
    push_all(client, "topic", ["x" * 100_000])

    def parse(entry: Any) -> None:
        msg = f"cannot parse {entry['n']} any further"
        raise ValueError(msg)

    run(lambda source: source.map(parse), client)
    [letter] = dead(client)
    assert letter["n"] == "x" * 100_000
    assert letter["dead:exception"].startswith("ValueError('cannot parse xxx")
    assert letter["dead:exception"].endswith("xxx any further')")
    assert letter["dead:traceback"].startswith("Traceback (most recent call last)")
    assert letter["dead:traceback"].rstrip().endswith("any further")
    assert " characters left out " in letter["dead:traceback"]
    assert len(letter["dead:exception"]) < MAX_EXCEPTION + 50
    assert len(letter["dead:traceback"]) < MAX_TRACEBACK + 50


@pytest.mark.parametrize("how", ["before", "after", "resend"])
@pytest.mark.parametrize("at", range(1, 6))
def test_interrupted_discard_is_continued_by_the_next_one(client: redis.Redis, at: int, how: str) -> None:
    """Five scripts: two look, three remove."""
    push_all(client, "topic", range(4))
    failing(client, {0, 1, 2, 3})
    [kept] = DeadLetters(client, "topic", "group").choose(exception="number 3")
    outcomes: list[str] = []
    with contextlib.suppress(redis.ConnectionError):
        letters = DeadLetters(breaking(client, at, how), "topic", "group")
        outcomes += [outcome for _, outcome in letters.discard(letters.choose(limit=3))]
    assert outcomes == (["discarded"] * 3 if how == "resend" else [])
    letters = DeadLetters(client, "topic", "group")
    list(letters.discard(each for each in letters.choose() if each.id != kept.id))
    assert [letter["n"] for letter in dead(client)] == [3]
    assert not client.exists("topic:retry:group")


def test_letters_of_a_deleted_group_can_be_discarded_but_not_replayed(client: redis.Redis) -> None:
    push_all(client, "topic", range(3))
    failing(client, {0, 1, 2})
    client.xgroup_destroy("topic", "group")
    letters = DeadLetters(client, "topic", "group")
    with pytest.raises(SettingsError, match="'topic' has none; nothing was replayed"):
        letters.replay(letters.choose())
    assert [outcome for _, outcome in letters.discard(letters.choose())] == ["discarded"] * 3
    with pytest.raises(SettingsError, match="got group 'group' of topic 'topic'"):
        DeadLetters(client, "topic", "group")


@pytest.mark.parametrize(
    "fields",
    [
        {"foreign": "letter"},
        {"n": "1", "dead:topic": "topic", "dead:id": "yesterday"},
        {"n": "1", "dead:topic": "topic", "dead:retries": "x", "dead:deliveries": "-", "dead:combines": "[1]"},
        {"n": "1", "dead:topic": "topic", "dead:id": "9" * 40 + "-1", "dead:combines": "{", "dead:retries": "9" * 30},
    ],
)
def test_foreign_letters_neither_hide_nor_block_others(client: redis.Redis, fields: Any) -> None:
    push_all(client, "topic", range(2))
    failing(client, {0, 1})
    odd = client.xadd(DEAD, fields).decode()
    letters = DeadLetters(client, "topic", "group")
    assert {letter.id for letter in letters.newest(9)} == {letter.id for letter in letters.choose()}
    became = {letter.id: outcome for letter, outcome in letters.replay(letters.choose(), into_windows=True)}
    assert len(became) == 3
    assert [outcome for id_, outcome in became.items() if id_ != odd] == ["replayed"] * 2
    assert all(outcome == "discarded" for _, outcome in letters.discard(letters.choose()))
    assert len(letters) == 0


def test_key_of_another_type_at_the_dead_letter_topic_is_named(client: redis.Redis) -> None:
    push_all(client, "topic", range(2))
    client.xgroup_create("topic", "group", "0")
    client.set(DEAD, "x")
    with pytest.raises(UnreadableTopicError, match=f"expected key '{DEAD}' to be a stream, got a string"):
        DeadLetters(client, "topic", "group").choose()


def test_levels_show_the_number_of_dropped_letters(client: redis.Redis) -> None:
    letters = Letters(client)
    read_all(letters.consumer)
    for _ in range(7):
        letters.fail(10)
    levels = Reservoir(client).levels()
    [group] = levels[0].groups
    assert (group.dead, group.dead_dropped) == (5, 2)
    assert [str(cell) for cell in levels_table(levels).columns[10].cells] == ["5 (+2 dropped)"]
