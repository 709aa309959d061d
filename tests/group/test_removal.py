"""Removal of groups, topics and inlets: nothing of theirs stays, and every other key stays byte for byte."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from tasks import Reservoir, SettingsError, UnreadableTopicError
from tasks.group import held_entries, removal
from tasks.group.consumer import Consumer
from tasks.group.dead_letter_limits import DeadLetterLimits
from tasks.group.dead_letters import DeadLetters
from tasks.group.removal import drop_group, drop_inlet, drop_topic, kept_by_group, running_inlets
from tasks.pump.neighbours import Neighbours
from tasks.pump.ticks import Beat, tick_at
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import lease_key
from tasks.reservoir.retention import Retention
from tests.support.streams import crash, drain, here, push_all

Fresh = Callable[[], redis.Redis]

# Names that contain one another, and the words of which keys are made.
NAMES = ["a", "a.b", "ab", "b", "dead", "retry", "lease", "output", "topic"]
KEEP = Keep.of("1000")

pairs = st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES))
lives = st.sampled_from(["stopped", "crashed", "claimed", "fails", "replayed", "deleted"])


@pytest.fixture(scope="module", autouse=True)
def one_letter() -> Iterator[None]:
    """Have groups keep one dead letter, so that the second one drops the first, which is counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_entries, "KEEP_DEAD_LETTERS", DeadLetterLimits(max_letters=1))
        yield


def everything(client: Any) -> dict[bytes, bytes]:
    """Return each key with its bytes, but not the records of appends, which name no topic and lapse within minutes."""
    keys = [key for key in client.scan_iter(count=1000) if not key.startswith((b"sluice:push:", b"sluice:replay:"))]
    return {key: client.dump(key) for key in keys}


async def live(client: redis.Redis, topic: str, group: str, end: str) -> None:
    """Run an outlet of `group` that pushes results, and leave behind what its end leaves."""

    def handled(entry: Any) -> Any:
        if end in ("fails", "replayed", "deleted") and entry["n"]:
            raise ValueError
        return {"n": entry["n"]}

    source = here(client, topic, group=group)
    kept = source.map(handled).partition(2).pluck(0).to_redis("results", client=client)  # holds what has no partner
    source.open()
    if end in ("crashed", "claimed"):
        await source.step()
        crash(source, client)
    else:
        await drain(source)
        source.close()
    del kept
    if end == "claimed":
        taker = Consumer(client, topic, group)
        taker.step(0)
        client.delete(lease_key(group, taker.membership.name))
    if end == "deleted":
        client.xgroup_destroy(topic, group)
    if end == "replayed":
        letters = DeadLetters(client, topic, group)
        list(letters.replay(letters.choose(), into_windows=True))
        await live(client, topic, group, "stopped")


def read(client: redis.Redis, topic: str, group: str, end: str) -> None:
    asyncio.run(live(client, topic, group, end))


def pump(client: redis.Redis, topic: str, inlet: str, *, ticks: int = 2) -> Beat:
    """Push as a run of an inlet does."""
    beat = Beat(Reservoir(client), topic, inlet, every=1.0, keep=KEEP)
    Retention(client).declare(topic, KEEP, inlet=beat.key.removeprefix("sluice:beat:"))
    Neighbours(client, beat, parameters={}, run="run").announce()
    first = beat.start(time.time() - ticks)
    for tick in range(first, first + ticks):
        assert beat.claim(tick) == "claimed"
        beat.push(tick, Reservoir(client).encode([{"n": tick}]))
        beat.done(tick, pushed=True)
    return beat


def filled(client: redis.Redis, topics: Iterable[str]) -> None:
    for topic in {*topics, "results"}:
        push_all(client, topic, range(3))


@given(others=st.dictionaries(pairs, lives, max_size=4), mine=pairs, end=lives)
def test_dropping_a_group_leaves_every_other_key_byte_for_byte(
    fresh_client: Fresh, others: dict[tuple[str, str], str], mine: tuple[str, str], end: str
) -> None:
    client = fresh_client()
    others.pop(mine, None)
    topic, group = mine
    filled(client, [topic, *(other for other, _ in others)])
    for (other, reader), how in others.items():
        read(client, other, reader, how)
    Retention(client).trim(topic)
    before = everything(client)
    read(client, topic, group, end)
    results = client.dump("results")
    drop_group(client, topic, group)
    after = everything(client)
    assert after.pop(b"results") == results  # what the outlet pushed stays
    del before[b"results"]
    expect_same(before, after, others, [group])


def expect_same(
    before: dict[bytes, bytes], after: dict[bytes, bytes], others: dict[tuple[str, str], str], dropped: Iterable[str]
) -> None:
    """Compare all keys, except those of the results that outlets pushed.

    Tombstones name no topic: those of a dropped group stay while it reads another topic, and go with the last one.
    """
    live = {group for (_, group), how in others.items() if how != "deleted"}
    also = {group for _, group in others} & {*dropped}
    stay, either = (tuple(lease_key(group, "").encode() for group in some) for some in (live & also, also))
    assert {key for key in before if key.startswith(stay)} <= after.keys()
    for keys in (before, after):
        for key in [key for key in keys if key.endswith(b":results") or key.startswith(either)]:
            del keys[key]
    assert after == before


@given(
    others=st.dictionaries(pairs, lives, max_size=3),
    inlets=st.sets(pairs, max_size=2),
    topic=st.sampled_from(NAMES),
    groups=st.dictionaries(st.sampled_from(NAMES), lives, max_size=2),
    pumps=st.sets(st.sampled_from(NAMES), max_size=2),
)
@example(
    others={("b", "a"): "replayed"}, inlets=set(), topic="a", groups={}, pumps=set()
)  # its retry topic ends with 'a'
def test_dropping_a_topic_leaves_every_other_key_byte_for_byte(
    fresh_client: Fresh,
    *,
    others: dict[tuple[str, str], str],
    inlets: set[tuple[str, str]],
    topic: str,
    groups: dict[str, str],
    pumps: set[str],
) -> None:
    client = fresh_client()
    others = {(other, group): how for (other, group), how in others.items() if other != topic}
    inlets = {(other, inlet) for other, inlet in inlets if other != topic}
    filled(client, [other for other, _ in [*others, *inlets]])
    for (other, group), how in others.items():
        read(client, other, group, how)
    for other, inlet in inlets:
        pump(client, other, inlet)
    before = everything(client)
    push_all(client, topic, range(3))
    for inlet in pumps:
        pump(client, topic, inlet)
    for group, how in groups.items():
        read(client, topic, group, how)
    drop_topic(client, topic)
    after = everything(client)
    del before[b"results"], after[b"results"]
    expect_same(before, after, others, [*groups])


@given(others=st.sets(pairs, max_size=3), mine=pairs)
def test_dropping_an_inlet_leaves_topic_entries_and_other_inlets(
    fresh_client: Fresh, others: set[tuple[str, str]], mine: tuple[str, str]
) -> None:
    client: Any = fresh_client()
    topic, inlet = mine
    for other in others - {mine}:
        pump(client, *other)
    before = everything(client)
    beat = pump(client, topic, inlet)
    pushed = client.dump(topic)
    drop_inlet(client, topic, inlet)
    beside = {
        key: data for key, data in before.items() if not key.endswith(f":{topic}".encode()) and key != topic.encode()
    }
    after = everything(client)
    assert after[topic.encode()] == pushed
    assert {key: after.get(key) for key in beside} == beside
    assert not [key for key in after if beat.key.encode() in key]
    declared = {
        name.rpartition(b":")[0] for name in client.hkeys(f"sluice:topic:{topic}") if name.startswith(b"inlet:")
    }
    assert declared == {f"inlet:{other}".encode() for of, other in others - {mine} if of == topic}


def test_group_is_not_dropped_if_a_consumer_joins_during_the_drop(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_all(client, "topic", [1])
    reader = Consumer(client, "topic", "group", name="late")
    reader.step(0)
    before = everything(client)
    seen = [("group", []), removal._consumers(client, "topic", "group")]
    monkeypatch.setattr(removal, "_consumers", lambda *_: seen.pop(0))
    with pytest.raises(removal.ConsumersAliveError, match=r"got late; nothing was dropped"):
        drop_group(client, "topic", "group")
    assert everything(client) == before
    assert seen == []


def test_a_group_is_not_dropped_while_a_consumer_is_alive(client: redis.Redis) -> None:
    push_all(client, "topic", range(3))
    reader = Consumer(client, "topic", "group", name="alive")
    while not reader.held:
        reader.step(1)
    before = everything(client)
    for drop in (lambda: drop_group(client, "topic", "group"), lambda: drop_topic(client, "topic")):
        with pytest.raises(removal.ConsumersAliveError, match=r"got alive; nothing was dropped; stop its outlet"):
            drop()
    assert everything(client) == before
    reader.leave()
    drop_topic(client, "topic")
    assert not everything(client)


def test_a_group_is_not_dropped_while_another_reads_its_dead_letters(client: redis.Redis) -> None:
    push_all(client, "topic", range(3))
    read(client, "topic", "group", "fails")
    read(client, "topic:dead:group", "nurse", "stopped")
    with pytest.raises(SettingsError, match=r"got 'nurse'; .*`sluice groups drop topic:dead:group nurse`"):
        drop_group(client, "topic", "group")
    drop_group(client, "topic:dead:group", "nurse")
    drop_group(client, "topic", "group")
    assert not [key for key in everything(client) if b"nurse" in key or b"dead" in key]


def test_leftovers_of_a_deleted_group_are_counted_and_dropped(client: redis.Redis) -> None:
    push_all(client, "topic", range(3))
    read(client, "topic", "group", "fails")
    push_all(client, "topic", range(1))
    read(client, "topic", "group", "stopped")
    client.xgroup_destroy("topic", "group")
    kept = kept_by_group(client, "topic", "group")
    assert (kept.letters, kept.pending) == (1, 0)
    assert kept.records == 1
    drop_group(client, "topic", "group")
    assert not [key for key in everything(client) if b"group" in key.split(b":")]
    with pytest.raises(SettingsError, match="expected a group of topic 'topic', which has none, got 'group'"):
        kept_by_group(client, "topic", "group")


def test_a_group_of_another_program_is_dropped_by_the_name_it_is_shown_by(client: redis.Redis) -> None:
    push_all(client, "topic", range(1))
    client.xgroup_create("topic", b"odd*\xff", "0")
    client.xgroup_create("topic", "odd", "0")
    drop_group(client, "topic", "odd*\\xff")
    assert [group["name"] for group in client.xinfo_groups("topic")] == [b"odd"]


def test_a_key_of_another_type_keeps_a_topic_from_being_dropped(client: redis.Redis) -> None:
    push_all(client, "topic", range(1))
    client.set("topic:dead:group", "not a stream")
    with pytest.raises(UnreadableTopicError, match="topic"):
        drop_topic(client, "topic")
    assert client.xlen("topic") == 1


def test_inlets_that_pump_are_named_until_their_last_tick_is_old(client: redis.Redis) -> None:
    beat = pump(client, "topic", "seconds")
    pump(client, "other", "vitals")
    assert running_inlets(client, "topic") == ["seconds"]
    client.delete(*client.keys(f"{beat.key}:alive:*"))
    assert running_inlets(client, "topic", now=time.time() + 60) == []
    assert tick_at(time.time(), 1.0) > 0
