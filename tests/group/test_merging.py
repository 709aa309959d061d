"""Merge of an outlet's topics by entry id: replays, restarts and redeliveries keep the order of the live run."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st
from streamz import Stream

from tasks.base.ids import id_numbers
from tasks.group.consumer import Consumer
from tasks.nodes.from_redis import from_redis
from tasks.testing import Bench
from tests.support.letters import failing, replay_all
from tests.support.streams import (
    Killed,
    crash,
    here,
    lossy,
    one_life,
    open_with,
    pending,
    push_all,
    step,
    survives,
)
from tests.support.waiting import wait_until

Fresh = Callable[[], redis.Redis]

TOPICS = ["one", "two", "three"]
JOINS: dict[str, Callable[[Stream, Stream, Stream], Stream]] = {
    "zip_latest": lambda one, two, _: one.zip_latest(two),
    "combine_latest": lambda one, two, three: one.combine_latest(two, three),
    "union": lambda one, two, three: three.union(two, one),
    "zip": lambda one, two, _: one.zip(two),
}
pushes = st.tuples(st.just("push"), st.sampled_from(TOPICS), st.integers(1, 4))
steps = st.tuples(st.just("step"), st.integers(1, 3))
ends = st.sampled_from([("crash",), ("stop",)])


def join(how: str) -> Callable[[Stream], Stream]:
    """Return a pipeline that joins the three topics; its results consist of the pushed values."""

    def build(source: Stream) -> Stream:
        branches = [source.filter(lambda entry, topic=topic: entry.topic == topic).pluck("n") for topic in TOPICS]
        return JOINS[how](*branches)

    return build


def reader(client: redis.Redis, topics: list[str], group: str, **options: Any) -> Any:
    return Consumer(client, topics, group, **options)


def in_id_order(client: Any, topics: list[str]) -> list[int]:
    """Return all values in the order of their entries' ids; those of one id in the order of the topics."""
    found = [
        (id_numbers(id_.decode()), turn, int(raw[b"n"]))
        for turn, topic in enumerate(topics)
        for id_, raw in client.xrange(topic)
    ]
    return [value for _, _, value in sorted(found)]


@pytest.mark.parametrize("how", JOINS)
@given(life=st.lists(st.one_of(pushes, pushes, steps, ends), max_size=15), at_once=st.integers(1, 4))
def test_replay_of_several_topics_repeats_the_live_results(
    fresh_client: Fresh, how: str, life: list[Any], at_once: int
) -> None:
    """With any order of pushes, reads, crashes and stops."""
    client: Any = fresh_client()
    count = 0
    options: dict[str, Any] = {"max_entries": at_once, "max_deliveries": 100}
    with Bench(join(how), client=client, topics=TOPICS, group="live", options=options) as live:
        for what, *details in life:
            if what == "push":
                topic, number = details
                for _ in range(number):
                    count += 1
                    client.xadd(topic, {"n": count})
            elif what == "step":
                for _ in range(details[0]):
                    live.step()
            else:
                getattr(live, what)()
        live.drain()
        live.stop()
    options["until"] = "now"
    with Bench(join(how), client=client, topics=TOPICS, group="replay", options=options) as replay:
        replay.drain()
    assert list(dict.fromkeys(live.results)) == replay.results
    if how == "union":
        assert replay.results == in_id_order(client, TOPICS)


@given(
    lives=st.lists(
        st.tuples(
            st.lists(st.sampled_from(TOPICS), max_size=8),  # one push each
            st.integers(0, 5),  # steps
            st.booleans(),  # whether it reads ahead
            st.sampled_from(["crash", "stop"]),
        ),
        max_size=6,
    ),
    at_once=st.integers(1, 4),
)
def test_first_deliveries_of_several_topics_are_in_id_order_despite_crashes(
    fresh_client: Fresh, lives: list[Any], at_once: int
) -> None:
    client: Any = fresh_client()
    seen: list[int] = []
    count = 0

    async def live(topics: list[str], steps: int, ahead: bool, end: str) -> None:
        nonlocal count
        for topic in topics:
            count += 1
            push_all(client, topic, [count])
        source = here(client, TOPICS, max_entries=at_once)
        kept = source.map(lambda entry: entry["n"]).sink(seen.append)
        await one_life(source, client, steps=steps, ahead=ahead, end=end)
        del kept

    for one in [*lives, ([], 100, False, "stop")]:
        asyncio.run(live(*one))
    assert list(dict.fromkeys(seen)) == in_id_order(client, TOPICS)
    assert not any(pending(client, topic) for topic in TOPICS)


@given(
    topics=st.lists(st.sampled_from(TOPICS), max_size=30),
    loses_in=st.lists(st.integers(1, 6), max_size=5),
    at_once=st.integers(1, 4),
    ahead=st.booleans(),
)
def test_lost_reply_neither_loses_nor_reorders_entries_of_several_topics(
    fresh_client: Fresh, topics: list[str], loses_in: list[int], at_once: int, ahead: bool
) -> None:
    client: Any = fresh_client()
    for n, topic in enumerate(topics):
        client.xadd(topic, {"n": n}, id=f"{n + 1}-0")
    through = lossy(client)
    one = reader(through, TOPICS, "group", max_entries=at_once)
    seen: list[Any] = []
    for command in [*loses_in, *[0] * (len(topics) + 1)]:
        through.loses_in = command
        try:
            seen += one.step(0, ahead=ahead)
        except redis.ConnectionError:
            continue
    assert [entry["n"] for entry in seen] == list(range(len(topics)))


def test_entries_of_one_millisecond_are_returned_by_id(client: Any) -> None:
    """Each topic numbers its entries of a millisecond from 0, even if the one with the larger id was pushed first."""
    one = reader(client, ["a", "b"], "group")
    one.step(0)
    seen: list[Any] = []
    for n in range(30):
        for topic in ("a", "a", "b"):
            client.xadd(topic, {"n": n})
        seen += one.step(0)
    while step := one.step(0):
        seen += step
    places = [(id_numbers(entry.id), entry.topic) for entry in seen]
    assert places == sorted(places)
    assert len(places) == 90


def test_topic_with_a_backlog_does_not_overtake_older_entries_of_others(client: Any) -> None:
    for n in range(1, 9):
        client.xadd("b", {"n": n}, id=f"{n}-0")
    for n in range(9, 17):
        client.xadd("a", {"n": n}, id=f"{n}-0")
    one = reader(client, ["a", "b"], "group", max_entries=4)
    first = one.step(0)
    client.delete(one.membership.fence.lease)  # dead: it had read both
    rest: list[Any] = []
    other = reader(client, ["a", "b"], "group", max_entries=4)
    while step := other.step(0):
        rest += step
    assert [entry["n"] for entry in first] == list(range(1, len(first) + 1))
    assert [entry["n"] for entry in rest] == list(range(1, 17))
    assert [entry.deliveries for entry in rest[: len(first)]] == [2] * len(first)


@pytest.mark.parametrize("until", [None, "now"])
def test_ids_ahead_of_the_clock_delay_no_entry(client: Any, until: str | None) -> None:
    future = int(time.time() * 1000) + 3_600_000
    client.xadd("ahead", {"n": 0}, id=f"{future}-0")
    client.xadd("ahead", {"n": 1}, id=f"{future}-1")
    one = reader(client, ["ahead", "now"], "group", until=until)
    assert [entry["n"] for entry in one.step(0)] == [0, 1]
    if until is None:
        client.xadd("now", {"n": 2})
        client.xadd("ahead", {"n": 3})
        assert {entry["n"] for _ in range(3) for entry in one.step(0)} == {2, 3}


def test_entry_of_a_quiet_topic_is_not_delayed_by_a_busy_one(real_redis: redis.Redis) -> None:
    one = Consumer(real_redis, ["busy", "quiet"], "group")
    one.step(0)
    [id_] = push_all(real_redis, "quiet", [1])
    assert [entry.id for entry in one.step(60_000)] == [id_]


def test_replayed_entries_are_merged_by_their_retry_ids(client: Any) -> None:
    ids = push_all(client, "topic", range(3))
    failing(client, {1})
    replay_all(client)
    [(replayed, _)] = client.xrange("topic:retry:group")
    wait_until(lambda: time.time() * 1000 > id_numbers(replayed.decode())[0] + 5, "the next milliseconds")
    later = push_all(client, "topic", [3])
    one = reader(client, ["topic"], "group")
    seen: list[Any] = []
    while step := one.step(0):
        seen += step
    assert [entry.id for entry in seen] == [ids[1], *later]


@given(deadly=st.integers(0, 11), at_once=st.integers(2, 6))
@example(deadly=0, at_once=6)
def test_only_the_poison_message_of_several_topics_becomes_a_dead_letter(
    fresh_client: Fresh, deadly: int, at_once: int
) -> None:
    client: Any = fresh_client()
    for n in range(12):
        client.xadd(TOPICS[n % 2], {"n": n}, id=f"{n + 1}-0")
    seen: list[int] = []

    def die(entry: Any) -> None:
        if entry["n"] == deadly:
            raise Killed
        seen.append(entry["n"])

    async def live() -> bool:
        source: from_redis = here(client, TOPICS[:2], max_entries=at_once, max_deliveries=3)
        kept = source.sink(die)
        survived = await survives(source, client, step(source, 40))
        del kept
        return survived

    while not asyncio.run(live()):
        pass
    assert list(dict.fromkeys(seen)) == [n for n in range(12) if n != deadly]
    letters = [raw[b"n"] for topic in TOPICS[:2] for _, raw in client.xrange(f"{topic}:dead:group")]
    assert letters == [str(deadly).encode()]


@pytest.mark.parametrize("loses_in", [1, 2, 3])
def test_crash_leaves_no_half_of_a_pair_unacknowledged(client: Any, loses_in: int) -> None:
    """One script acknowledges all finished entries: a connection lost between two scripts would shift all later pairs."""
    for n in range(6):
        client.xadd(TOPICS[n % 2], {"n": n}, id=f"{n + 1}-0")
    pairs: list[Any] = []

    async def live(loses_in: int) -> None:
        through = lossy(client)
        source: from_redis = here(client, TOPICS[:2])
        kept = join_of_two(source).sink(pairs.append)
        flush = open_with(source, through).flush

        def flush_half() -> None:
            through.loses_in = loses_in
            flush()
            through.loses_in = 0

        source.latest_run.flush = flush_half
        try:
            await source.step()
        except redis.ConnectionError:
            crash(source, client)
            return
        source.close()
        del kept

    def join_of_two(source: Stream) -> Stream:
        one, two = (source.filter(lambda entry, topic=topic: entry.topic == topic).pluck("n") for topic in TOPICS[:2])
        return one.zip(two)

    asyncio.run(live(loses_in))
    left = [pending(client, topic) for topic in TOPICS[:2]]
    assert len(left[0]) == len(left[1])
    asyncio.run(live(0))
    assert list(dict.fromkeys(pairs)) == [(0, 1), (2, 3), (4, 5)]
