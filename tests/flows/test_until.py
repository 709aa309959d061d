"""Bounded replays read everything up to the bound and nothing beyond it, and end by themselves."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from flows import outlet
from tasks import Entry, SettingsError
from tasks.checks import group_end, group_start
from tasks.group.consumer import Consumer
from tasks.nodes.from_redis import from_redis
from tasks.reservoir.groups import create_group, groups_of
from tests.support.streams import here, pending, push_all
from tests.support.waiting import wait_until

IDS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)).filter(any), unique=True, max_size=12).map(sorted)


def add(client: redis.Redis, topic: str, ids: list[tuple[int, int]]) -> list[str]:
    return [client.xadd(topic, {"n": "1"}, id=f"{ms}-{sequence}").decode() for ms, sequence in ids]


def all_of(consumer: Consumer) -> list[Entry]:
    """Step until the consumer is through or returns nothing; acknowledge its entries."""
    found: list[Any] = []
    while entries := consumer.step(0):
        found += entries
        for entry in entries:
            consumer.ack(entry.topic, [entry.id])
    return found


@given(
    ids=st.tuples(IDS, IDS),
    bound=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    at_once=st.integers(1, 5),
    members=st.integers(1, 2),
)
def test_a_bounded_group_gets_exactly_the_entries_up_to_the_bound_and_later_the_rest(
    fresh_client: Callable[[], redis.Redis],
    ids: tuple[list[tuple[int, int]], list[tuple[int, int]]],
    bound: tuple[int, int],
    at_once: int,
    members: int,
) -> None:
    client = fresh_client()
    topics = ["a", "b"]
    pushed = {topic: add(client, topic, some) for topic, some in zip(topics, ids, strict=True)}
    within = {
        topic: [i for i, pair in zip(pushed[topic], some, strict=True) if pair <= bound]
        for topic, some in zip(topics, ids, strict=True)
    }
    until = f"{bound[0]}-{bound[1]}"
    consumers = [Consumer(client, topics, "group", until=until, max_entries=at_once) for _ in range(members)]
    seen: dict[str, list[str]] = {topic: [] for topic in topics}
    for _ in range(20):
        for consumer in consumers:
            for entry in all_of(consumer):
                seen[entry.topic].append(entry.id)
    assert seen == within
    assert all(consumer.is_through for consumer in consumers)
    for consumer in consumers:
        consumer.leave()
    rest = all_of(Consumer(client, topics, "group"))
    assert {topic: [e.id for e in rest if e.topic == topic] for topic in topics} == {
        topic: pushed[topic][len(within[topic]) :] for topic in topics
    }
    assert all(entry.deliveries == 1 for entry in rest)


def test_now_includes_the_entries_of_the_topic_at_the_start(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(3))
    consumer = Consumer(client, "topic", "group", until="now", max_entries=2)
    first = consumer.step(0)
    push_all(client, "topic", range(3))
    assert [entry.id for entry in [*first, *all_of(consumer)]] == ids
    assert consumer.is_through


def test_a_bound_in_the_future_is_waited_for(client: redis.Redis) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    consumer = Consumer(client, "topic", "group", until=soon.isoformat())
    assert consumer.step(0) == []
    assert not consumer.is_through
    [id_] = push_all(client, "topic", [1])
    wait_until(lambda: datetime.now(UTC) > soon + timedelta(milliseconds=5), "the bound")
    assert [entry.id for entry in all_of(consumer)] == [id_]
    assert consumer.is_through


def test_entries_of_a_dead_consumer_beyond_the_bound_stay_pending(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(6))
    dead = Consumer(client, "topic", "group")
    dead.step(0)
    dead.membership.release()
    consumer = Consumer(client, "topic", "group", until=ids[2])
    assert [entry.id for entry in all_of(consumer)] == ids[:3]
    assert consumer.is_through
    consumer.leave()
    assert pending(client) == ids[3:]


def test_an_empty_topic_is_read_through_at_once(client: redis.Redis) -> None:
    consumer = Consumer(client, "topic", "group", until="now")
    assert consumer.step(0) == []
    assert consumer.is_through


@pytest.mark.parametrize(
    ("until", "end"),
    [
        ("now", "$"),
        ("new", "$"),
        ("1700-3", "1700-3"),
        ("5-0", "5-0"),
        ("0-0", "0-0"),
        ("0", f"0-{2**64 - 1}"),
        ("1700000000000", f"1700000000000-{2**64 - 1}"),
        ("1700000000000000000", f"1700000000000000000-{2**64 - 1}"),  # of nanoseconds
        ("19700102", f"86400000-{2**64 - 1}"),
        ("19700102T000001", f"86401000-{2**64 - 1}"),
        ("1970-01-01T00:00:01", f"1000-{2**64 - 1}"),
        ("1970-01-01T01:00:01+01:00", f"1000-{2**64 - 1}"),
    ],
)
def test_a_bound_is_inclusive(until: str, end: str) -> None:
    assert group_end(until) == end


_NO_BOUNDS = ["tomorrow", "", "-1", "1-2-3", f"{2**64}-0", "5-٣"]
_NO_TIMES = ["2026", "2026-11", "2026-1", "20261399", "1700000000", "202611260930", "20261126093000"]


@pytest.mark.parametrize("until", ["beginning", *_NO_BOUNDS, *_NO_TIMES])
def test_invalid_bounds_are_refused(until: str) -> None:
    with pytest.raises(SettingsError, match="until: expected 'now', an ISO time or an entry id, got .* with its day"):
        group_end(until)


@pytest.mark.parametrize("start_from", ["now", *_NO_BOUNDS, *_NO_TIMES])
def test_invalid_starts_are_refused(start_from: str) -> None:
    with pytest.raises(SettingsError, match="start_from: expected 'beginning', 'new', an ISO time or an entry id, got"):
        group_start(start_from)


def test_a_date_without_dashes_is_a_date() -> None:
    assert group_start("20251126") == group_start("2025-11-26")
    assert group_end("20261126") == group_end("2026-11-26")


def test_steps_reach_a_bound_too(client: redis.Redis) -> None:
    ids = push_all(client, "topic", range(5))

    async def main() -> list[str]:
        source = here(client, until=ids[3])
        seen: list[str] = []
        kept = source.map(lambda e: e.id).sink(seen.append)
        source.open()
        while not source.is_through:
            await source.step()
        source.close()
        del kept
        return seen

    assert asyncio.run(main()) == ids[:4]


@pytest.fixture
def url(redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    return redis_server.url


def test_a_bounded_source_stops_by_itself_and_leaves_windows_pending(real_redis: redis.Redis, url: str) -> None:
    ids = push_all(real_redis, "topic", range(60))
    source = Stream.from_redis("topic", group="group", url=url, until=ids[39])
    late: list[int] = []

    async def slow(entry: Entry) -> None:
        await asyncio.sleep(0.002)
        late.append(entry["n"])

    kept = [source.buffer(20).delay(0.002).sink(slow), source.sliding_window(3, return_partial=False).sink_to_list()]
    source.start()
    source.join(20)
    assert late == list(range(40))
    assert len(kept[1]) == 38
    assert pending(real_redis) == ids[38:40]


def test_sink_that_writes_late_is_flushed_at_the_end(real_redis: redis.Redis, url: str, tmp_path: Any) -> None:
    push_all(real_redis, "topic", range(5))
    source = Stream.from_redis("topic", group="group", url=url, until="now")
    kept = source.to_parquet(tmp_path)  # once a minute
    source.start()
    source.join(20)
    assert pending(real_redis) == []
    assert list(tmp_path.rglob("*.parquet"))
    del kept


def groups(client: redis.Redis) -> list[str]:
    return [group["name"].decode() for group in client.xinfo_groups("topic")]


def test_replay_keeps_or_drops_its_group_by_the_option(real_redis: redis.Redis, url: str) -> None:
    push_all(real_redis, "topic", range(10))
    seen: list[int] = []

    @outlet(topics="topic", group="group", until="now")
    def replay(source: Stream) -> None:
        source.map(lambda e: e["n"]).sliding_window(2, return_partial=False).sink(seen.append)

    replay.fn()
    assert len(seen) == 9
    assert groups(real_redis) == ["group"]
    replay.fn(drop_group=True)  # continues where the first one ended: no new entry, but those of its window
    assert groups(real_redis) == []
    seen.clear()
    replay.fn(drop_group=True)
    assert len(seen) == 9


def test_a_group_in_which_another_consumer_lives_is_not_dropped(real_redis: redis.Redis, url: str) -> None:
    Consumer(real_redis, "topic", "group").step(0)
    push_all(real_redis, "topic", range(3))

    @outlet(topics="topic", group="group", until="now", drop_group=True)
    def replay(source: Stream) -> None:
        source.sink(lambda _: None)

    replay.fn()
    assert groups(real_redis) == ["group"]
    assert pending(real_redis) == []


def test_a_group_can_be_dropped_despite_one_of_the_same_name_on_another_topic(client: redis.Redis) -> None:
    for topic in ("mine", "other"):
        push_all(client, topic, [1])
    Consumer(client, "other", "group").step(0)
    create_group(client, "mine", "group", "0")
    source = from_redis("mine", group="group", client=client)
    assert source.drop_group()
    assert [list(groups_of(client, topic)) for topic in ("mine", "other")] == [[], ["group"]]


def test_a_group_stays_for_a_consumer_that_has_read_nothing(client: redis.Redis) -> None:
    Consumer(client, ["quiet", "other"], "group").step(0)
    assert not from_redis("quiet", group="group", client=client).drop_group()


def test_dropping_a_group_wants_a_bound() -> None:
    with pytest.raises(SettingsError, match="drop_group: expected `until`"):
        outlet(topics="topic", group="group", drop_group=True)(lambda source: None)


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S+00:00", "%Y-%m-%dT%H:%M:%S"])
def test_a_start_in_the_future_is_refused_and_one_by_a_slow_clock_is_not(form: str) -> None:
    now = datetime.now(UTC)
    with pytest.raises(
        SettingsError, match=r"expected a time that has come, got .* UTC now; a time without a zone is UTC"
    ):
        group_start(f"{now + timedelta(hours=1):{form}}")
    assert group_start(f"{now + timedelta(seconds=60):{form}}") > group_start(f"{now - timedelta(hours=1):{form}}")
