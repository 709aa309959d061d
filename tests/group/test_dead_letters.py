"""Dead letters and replays: each entry is in one place, in order and unchanged, even after interruptions."""

import asyncio
import contextlib
import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from tasks import Reservoir, SettingsError
from tasks.group.dead_letters import DeadLetters, Letter
from tests.support.letters import failing, replay_all, retrying
from tests.support.streams import consumer, crash, dead, here, lossy, pending, push_all, read_ahead, read_all, run

Fresh = Callable[[], redis.Redis]


def breaking(client: redis.Redis, at: int, how: str) -> redis.Redis:
    """Return a client whose script number `at` is not sent, loses its reply, or is sent again after a lost reply."""
    made: Any = copy.copy(client)
    made.auto_close_connection_pool = False  # which at its end would hang up on `client`, too
    scripts: Counter[str] = Counter()

    def execute_command(*args: Any, **options: Any) -> Any:
        is_it = args[0] == "EVALSHA" and scripts["answered"] + 1 == at
        reply = None if is_it and how == "before" else client.execute_command(*args, **options)
        scripts["answered"] += args[0] == "EVALSHA"  # not one that the server had yet to learn: that is an error
        if is_it and how == "resend":
            return client.execute_command(*args, **options)
        if is_it:
            msg = "the connection broke"
            raise redis.ConnectionError(msg)
        return reply

    made.execute_command = execute_command
    return made


class World:
    """A model of one topic and a group whose pipeline fails at two nodes."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.pushed: list[str] = []
        self.bad: dict[str, set[int]] = {"map(first)": set(), "map(second)": set()}
        self.seen: set[str] = set()
        self.replays: Counter[str] = Counter()

    def push(self, n: int) -> None:
        numbers = range(len(self.pushed), len(self.pushed) + n)
        self.pushed += push_all(self.client, "topic", numbers)

    def build(self, source: Stream) -> Stream:
        def check(entry: Any, node: str) -> Any:
            assert (entry.topic, dict(entry)) == ("topic", {"n": self.pushed.index(entry.id)})
            if entry["n"] % 6 in self.bad[node]:
                raise ValueError(node)
            return entry

        def first(entry: Any) -> Any:
            return check(entry, "map(first)")

        def second(entry: Any) -> Any:
            return check(entry, "map(second)")

        return source.map(first).map(second).sink(lambda entry: self.seen.add(entry.id))

    def replay(self, choice: str, picks: set[int], broken: tuple[int, str] | None) -> None:
        before = retrying(self.client)
        client = breaking(self.client, *broken) if broken else self.client
        letters = DeadLetters(client, "topic", "group")
        there = dead(self.client)
        found = [key.decode() for key, _ in self.client.xrange("topic:dead:group")]
        picked = {found[i] for i in picks if i < len(found)}
        asked: dict[str, Any] = {
            "all": {}, "node": {"node": "map(second)"}, "ids": {"ids": picked}, "two": {"limit": 2},
        }[choice]  # fmt: skip
        wanted = {
            "all": [one["dead:id"] for one in there],
            "node": [one["dead:id"] for one in there if one["dead:node"] == "map(second)"],
            "ids": [one["dead:id"] for key, one in zip(found, there, strict=True) if key in picked],
            "two": sorted((one["dead:id"] for one in there), key=self.pushed.index)[:2],
        }[choice]
        outcomes = []
        with contextlib.suppress(redis.ConnectionError):
            outcomes += [(letter.entry_id, outcome) for letter, outcome in letters.replay(letters.choose(**asked))]
        moved = [id_ for id_, _ in retrying(self.client)[len(before) :]]
        self.replays.update(moved)
        in_order = sorted(wanted, key=self.pushed.index)
        assert moved == in_order[: len(moved)], "in the order of the topic, and nothing that was not chosen"
        if broken is None or broken[1] == "resend":
            assert outcomes == [(id_, "replayed") for id_ in in_order]

    def check(self) -> None:
        """Check that each entry is in one place."""
        groups = {one["name"]: one for one in self.client.xinfo_groups("topic")}
        last = groups[b"group"]["last-delivered-id"].decode()
        letters = dead(self.client)
        places = [
            *self.pushed[self.pushed.index(last) + 1 if last in self.pushed else 0 :],
            *pending(self.client),
            *(letter["dead:id"] for letter in letters),
            *(id_ for id_, _ in retrying(self.client)),
        ]
        assert len(places) == len(set(places))
        assert set(self.pushed) - set(places) <= self.seen
        for letter in letters:
            assert letter["n"] == self.pushed.index(letter["dead:id"])
            assert letter["dead:topic"] == "topic"
            assert letter.get("dead:retries", 0) == self.replays[letter["dead:id"]]
        assert all(times == self.replays[id_] for id_, times in retrying(self.client))

    async def live(self, steps: int, max_entries: int, ahead: bool, replay: Any, end: str) -> None:
        source = here(self.client, max_entries=max_entries)
        kept = self.build(source)
        reading = source.open()
        read_ahead(source, ahead=ahead)
        for _ in range(steps):
            await source.step()
        if replay is not None and self.client.exists("topic"):
            with contextlib.suppress(SettingsError):  # it has not joined yet
                self.replay(*replay)
        reading.consumer._next_claim = 0.0
        for _ in range(steps):
            await source.step()
        if end == "stop":
            source.close()
        else:
            reading.consumer.step(0)  # and what it read ahead
            crash(source, self.client)
        del kept


remainders = st.sets(st.integers(0, 5), max_size=4)
replays = st.none() | st.tuples(
    st.sampled_from(["all", "node", "ids", "two"]),
    st.sets(st.integers(0, 8)),
    st.none() | st.tuples(st.integers(1, 6), st.sampled_from(["before", "after", "resend"])),
)
rounds = st.lists(
    st.tuples(
        st.integers(0, 6), remainders, remainders, st.integers(0, 5), st.integers(1, 4), st.booleans(), replays,
        st.sampled_from(["crash", "stop"])
    ),
    max_size=8,
)  # fmt: skip


@given(rounds=rounds)
def test_failed_and_replayed_entries_are_in_one_place_and_come_back_unchanged(fresh_client: Fresh, rounds: Any) -> None:
    world = World(client := fresh_client())
    world.push(1)

    async def main() -> None:
        for pushes, first, second, steps, max_entries, ahead, replay, end in rounds:
            world.push(pushes)
            world.bad = {"map(first)": first, "map(second)": second}
            await world.live(steps, max_entries, ahead, replay, end)
            if b"group" in {one["name"] for one in client.xinfo_groups("topic")}:
                world.check()
        world.bad = {"map(first)": set(), "map(second)": set()}
        await world.live(100, 10, False, ("all", set(), None), "stop")
        world.check()

    asyncio.run(main())
    assert world.seen == set(world.pushed)
    assert not pending(client)
    assert not dead(client)
    assert not retrying(client)

    others: list[str] = []
    run(lambda source: source.sink(lambda entry: others.append(entry.id)), client, group="other")
    assert others == world.pushed
    assert [key for key in client.scan_iter() if client.ttl(key) < 0 and key.startswith(b"sluice:")] == []


def test_replay_follows_the_order_of_the_topic_not_that_of_the_failures(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(4))
    one = consumer(client)
    read_all(one)
    for id_ in (ids[2], ids[0], ids[3]):
        one.dead_letter("topic", id_, node="map", exception="late")
    assert [letter.entry_id for letter, _ in replay_all(client, limit=2)] == [ids[0], ids[2]]
    assert [id_ for id_, _ in retrying(client)] == [ids[0], ids[2]]
    assert [letter["dead:id"] for letter in dead(client)] == [ids[3]]


def test_letters_can_be_chosen_by_time_text_and_id(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(4))
    failing(client, {0, 1, 2, 3})
    letters = DeadLetters(client, "topic", "group")
    assert len(letters) == 4
    keys = [letter.id for letter in letters.choose()]

    def chosen(**choice: Any) -> list[str]:
        return [letter.entry_id for letter in letters.choose(**choice)]

    assert chosen(exception="number 2") == [ids[2]]
    assert chosen(node="map(check)", exception="ValueError", limit=3) == ids[:3]
    assert chosen(node="sink") == []
    assert chosen(since=keys[1], until=keys[2]) == ids[1:3]
    assert chosen(since="1970-01-01", until="2999-12-31T00:00+01:00") == ids
    assert chosen(until="1970-01-01T00:00:01") == chosen(since="2999-01-01T00:00:00") == []
    assert chosen(ids=[keys[3], keys[0]]) == [ids[0], ids[3]]
    assert chosen(ids=[keys[3], keys[0]], until=keys[2]) == [ids[0]]
    assert chosen(ids=[keys[1], "0", "0-0", "2000-01-01"]) == [*[""] * 2, ids[1]]
    assert chosen(ids=[]) == []


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"since": "yesterday"}, "since: expected an ISO time or a dead letter's id"),
        ({"since": "2026-11"}, "since: expected an ISO time or a dead letter's id, got '2026-11'; write a time"),
        ({"until": "1700000000"}, "until: expected an ISO time or a dead letter's id, got '1700000000'; write a time"),
        ({"ids": ["1-x"]}, "ids: expected"),
        ({"limit": 0}, "limit: expected a whole number from 1 on, got 0"),
    ],
)
def test_choosing_letters_refuses_invalid_conditions(fake_redis: redis.Redis, choice: Any, message: str) -> None:
    fake_redis.xgroup_create("topic", "group", mkstream=True)
    with pytest.raises(SettingsError, match=message):
        DeadLetters(fake_redis, "topic", "group").choose(**choice)


def test_replay_and_discard_skip_letters_that_do_not_exist(client: redis.Redis) -> None:
    push_all(client, "topic", range(2))
    failing(client, {0, 1})
    first, second = DeadLetters(client, "topic", "group").choose()
    assert dict(replay_all(client, ids=["1-1", first.id])) == {Letter("1-1"): "not there", first: "replayed"}
    assert dict(replay_all(client, ids=[first.id, second.id])) == {Letter(first.id): "not there", second: "replayed"}


def test_replay_leaves_letters_that_lack_their_entrys_fields(client: redis.Redis) -> None:
    [id_, _] = push_all(client, "topic", range(2))
    wide = client.xadd("topic", {f"field {n}": n for n in range(4_000)}).decode()
    one = consumer(client)
    read_all(one)
    client.xdel("topic", id_)  # while the pipeline has it
    for each in (id_, wide):
        one.dead_letter("topic", each, node="map", exception="late")
    client.xadd("topic:dead:group", {"foreign": "letter"})
    assert [outcome for _, outcome in replay_all(client)] == ["nothing to replay"] * 3
    assert not client.exists("topic:retry:group")
    assert client.xlen("topic:dead:group") == 3


@pytest.mark.parametrize(
    ("topic", "group", "message"),
    [
        ("topic", "gruop", "got group 'gruop' of topic 'topic': 'topic' has 'group', 'other'"),
        ("tpoic", "group", "topic 'tpoic' does not exist"),
        ("topic:dead:group", "group", "expected a topic name"),
    ],
)
def test_dead_letters_of_an_unknown_group_name_the_existing_ones(
    fake_redis: redis.Redis, topic: str, group: str, message: str
) -> None:
    for name in ("other", "group"):
        fake_redis.xgroup_create("topic", name, mkstream=True)
    with pytest.raises(SettingsError, match=message):
        DeadLetters(fake_redis, topic, group)


def test_replay_keeps_order_for_the_maximum_of_letters(real_redis: redis.Redis) -> None:
    ids = Reservoir(real_redis).push_many("topic", [{"n": n} for n in range(500)])
    failing(real_redis, set(range(500)))
    replay_all(real_redis)
    failing(real_redis, set(), seen=(seen := []))
    assert [entry.id for entry in seen] == ids


@pytest.mark.parametrize("how", ["before", "after", "resend"])
@pytest.mark.parametrize("at", range(1, 6))
def test_interrupted_replay_is_continued_by_the_next_one(client: redis.Redis, at: int, how: str) -> None:
    """Five scripts: two look, three move. A script that is sent again moves nothing twice and answers the same."""
    ids = push_all(client, "topic", range(3))
    failing(client, {0, 1, 2})
    outcomes: list[str] = []
    try:
        letters = DeadLetters(breaking(client, at, how), "topic", "group")
        outcomes += [outcome for _, outcome in letters.replay(letters.choose())]
    except redis.ConnectionError:
        replay_all(client)
    assert outcomes == (["replayed"] * 3 if how == "resend" else [])
    assert [id_ for id_, _ in retrying(client)] == ids
    assert not dead(client)


@pytest.mark.parametrize("taken_away_by", ["xack", "xgroup_delconsumer", "xgroup_destroy"])
def test_failed_entry_becomes_a_dead_letter_even_if_no_longer_pending(client: Any, taken_away_by: str) -> None:
    ids = push_all(client, "topic", range(3))
    one = consumer(client)
    read_all(one)
    last = {"xack": ids[1], "xgroup_delconsumer": one.membership.name}.get(taken_away_by)
    getattr(client, taken_away_by)("topic", "group", *([last] if last else []))
    assert one.dead_letter("topic", ids[1], node="map", exception="ValueError('bad')")
    [letter] = dead(client)
    assert (letter["n"], letter["dead:id"], letter["dead:deliveries"]) == (1, ids[1], 1)
    assert one.held == 2


def test_letter_of_a_part_of_an_entry_leaves_the_entry_pending(client: redis.Redis) -> None:
    [id_] = push_all(client, "topic", [1])
    one = consumer(client)
    read_all(one)
    one.dead_letter_part("topic", id_, {b"rows": b"[2]"}, {"node": "window"})
    [letter] = dead(client)
    assert (letter["rows"], letter["dead:id"], letter["dead:node"], "n" in letter) == ([2], id_, "window", False)
    assert (pending(client), one.held) == ([id_], 1)
    assert one.ack("topic", [id_]) == 1


def test_dead_letter_is_appended_once_though_the_reply_was_lost(client: redis.Redis) -> None:
    first, id_ = push_all(client, "topic", [1, 2])
    through = lossy(client)
    one = consumer(through)
    read_all(one)
    one.dead_letter("topic", first, node="map")  # the server knows the script
    through.loses_in = 1
    with pytest.raises(redis.ConnectionError):
        one.dead_letter("topic", id_, node="map")
    assert not one.dead_letter("topic", id_, node="map")
    assert [letter["dead:id"] for letter in dead(client)] == [first, id_]
    assert not one.held
