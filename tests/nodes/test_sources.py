"""`Stream.from_redis` and `Stream.engine` as notebooks use them: with threads, on a real Redis."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import streamz
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from tasks import PipelineError, Reservoir, SettingsError, UnavailableError
from tasks.group.consumer import Consumer
from tests.support.streams import dead, pending, push_all
from tests.support.waiting import wait_until


@pytest.fixture
def url(redis_server: RedisServer, real_redis: redis.Redis) -> str:
    return redis_server.url


@pytest.fixture
def started() -> Iterator[list[Any]]:
    """Return a list of sources that are stopped at the end of the test."""
    sources: list[Any] = []
    yield sources
    for source in sources:
        source.stop()
    for source in sources:
        source.join(20)


def test_sources_and_sinks_are_streamz_plugins() -> None:
    from importlib.metadata import entry_points

    names = {(e.group, e.name): e.load() for g in ("streamz.sources", "streamz.sinks") for e in entry_points(group=g)}
    assert {name for _, name in names} >= {"from_redis", "engine", "to_redis", "to_parquet"}
    assert all(issubclass(node, streamz.Stream) for node in names.values())


def test_source_runs_until_stopped_and_continues_when_started_again(
    url: str, real_redis: redis.Redis, started: list[Any]
) -> None:
    source = Stream.from_redis("topic", group="lab", url=url)
    seen = source.pluck("n").buffer(4).map(lambda n: n).sink_to_list()
    started.append(source)
    push_all(real_redis, "topic", range(50))
    source.start()
    wait_until(lambda: len(seen) == 50, "50 entries")
    source.stop()
    source.join(20)
    assert pending(real_redis, group="lab") == []
    push_all(real_redis, "topic", range(50, 60))
    source.start()
    wait_until(lambda: len(seen) == 60, "10 more")
    assert seen == list(range(60))


def test_stopping_one_of_several_sources_stops_no_other(url: str, real_redis: redis.Redis, started: list[Any]) -> None:
    sources = [Stream.from_redis("topic", group=f"lab{i}", url=url) for i in range(3)]
    seen = [source.pluck("n").sink_to_list() for source in sources]
    started += sources
    for source in sources:
        source.start()
    push_all(real_redis, "topic", range(10))
    wait_until(lambda: all(len(own) == 10 for own in seen), "10 entries at each")
    sources[0].stop()
    sources[0].join(20)
    push_all(real_redis, "topic", range(10, 20))
    wait_until(lambda: all(len(own) == 20 for own in seen[1:]), "20 entries at the others")
    assert seen[0] == list(range(10))


def test_streams_of_two_sources_can_be_zipped(url: str, real_redis: redis.Redis, started: list[Any]) -> None:
    left, right = (Stream.from_redis(topic, group="lab", url=url) for topic in ("left", "right"))
    seen = left.pluck("n").zip(right.pluck("n")).sink_to_list()
    started += [left, right]
    left.start()
    right.start()
    push_all(real_redis, "left", range(30))
    push_all(real_redis, "right", range(100, 120))
    wait_until(lambda: len(seen) == 20, "20 pairs")
    assert seen == [(n, n + 100) for n in range(20)]
    wait_until(lambda: pending(real_redis, "right", "lab") == [], "the right side acknowledged")
    wait_until(
        lambda: len(pending(real_redis, "left", "lab")) == 10, "all of the left side acknowledged that has its partner"
    )


def test_pipeline_that_blocks_its_loop_keeps_its_lease(url: str, real_redis: redis.Redis, started: list[Any]) -> None:
    let_go, busy = threading.Event(), threading.Event()

    def block(_: Any) -> None:
        busy.set()
        let_go.wait(20)

    source = Stream.from_redis("topic", group="lab", url=url, lease=0.4)
    source.sink(block)
    started.append(source)
    push_all(real_redis, "topic", [1])
    source.start()
    assert busy.wait(20)
    membership = source.latest_run.consumer.membership
    renewals: set[int] = set()

    def renewed_for_longer_than_the_lease() -> bool:
        ttl = real_redis.pttl(f"sluice:lease:lab:{membership.name}")
        assert ttl > 0, "the lease lapsed"
        renewals.add(ttl // 20)
        return source.latest_run.consumer._next_renewal > began + 1.0

    began = source.latest_run.consumer._next_renewal
    wait_until(renewed_for_longer_than_the_lease, "renewals over more than two leases")
    let_go.set()
    wait_until(lambda: not pending(real_redis, group="lab"), "the acknowledgement")


@pytest.mark.parametrize(("batch", "held"), [(None, 1), (2, 2)])
def test_entry_in_a_running_function_is_in_flight_without_a_receipt(
    url: str, real_redis: redis.Redis, started: list[Any], batch: int | None, held: int
) -> None:
    let_go, busy = threading.Event(), threading.Event()

    def block(_: Any) -> None:
        busy.set()
        let_go.wait(20)

    source = Stream.from_redis("topic", group="lab", url=url, batch=batch)
    source.map(lambda element: element).sink(block)
    started.append(source)
    push_all(real_redis, "topic", [1, 2])
    source.start()
    assert busy.wait(20)
    assert (source.latest_run.in_flight, source.latest_run.is_busy) == (held, True)
    let_go.set()
    wait_until(lambda: not pending(real_redis, group="lab"), "the acknowledgement")
    assert (source.latest_run.in_flight, source.latest_run.is_busy) == (0, False)


def test_source_survives_a_restart_of_redis(tmp_path: Path, started: list[Any]) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        client = redis.Redis.from_url(server.url, protocol=2)
        source = Stream.from_redis("topic", group="lab", url=server.url, lease=1.0)
        seen = source.pluck("n").sink_to_list()
        started.append(source)
        source.start()
        push_all(client, "topic", range(10))
        wait_until(lambda: len(seen) == 10, "10 entries")
        wait_until(lambda: not pending(client, group="lab"), "their acknowledgement")
        server.stop()
        server.start()
        push_all(client, "topic", range(10, 20))
        wait_until(lambda: len(seen) >= 20, "10 more after the restart")
        assert seen == list(range(20))
        source.stop()
        source.join(20)
    finally:
        server.stop()


def test_results_wait_for_redis_in_order_and_none_is_lost_or_duplicated(
    tmp_path: Path, url: str, real_redis: redis.Redis, started: list[Any]
) -> None:
    """The source reads from one Redis; the results go to another one that does not answer for a while."""
    server = RedisServer(tmp_path)
    server.start()
    try:
        source = Stream.from_redis("topic", group="lab", url=url)
        source.pluck("n").to_redis("results", url=server.url)
        started.append(source)
        source.start()
        push_all(real_redis, "topic", range(5))
        results = redis.Redis.from_url(server.url, protocol=2)
        wait_until(lambda: results.xlen("results") == 5, "5 results")
        server.stop()
        ids = push_all(real_redis, "topic", range(5, 10))
        wait_until(lambda: pending(real_redis, group="lab")[:1] == ids[:1], "an entry whose result waits")
        server.start()
        wait_until(lambda: results.xlen("results") == 10, "10 results")
        wait_until(lambda: not pending(real_redis, group="lab"), "their acknowledgement")
        assert [e["results"] for e in Reservoir(results).peek("results", 99)] == list(range(10))
        source.stop()
        source.join(20)
    finally:
        server.stop()


def test_two_sinks_on_one_topic_each_push_their_results(url: str, real_redis: redis.Redis, started: list[Any]) -> None:
    source = Stream.from_redis("topic", group="lab", url=url)
    n = source.pluck("n")
    n.map(lambda n: {"a": n}).to_redis("results")
    n.filter(lambda n: n % 2).map(lambda n: {"b": n}).to_redis("results")
    started.append(source)
    push_all(real_redis, "topic", range(4))
    source.start()
    wait_until(lambda: real_redis.xlen("results") >= 6 and not pending(real_redis, group="lab"), "6 results")
    results = [dict(e) for e in Reservoir(real_redis).peek("results", 99)]
    assert results == [{"a": 0}, {"a": 1}, {"b": 1}, {"a": 2}, {"a": 3}, {"b": 3}]


def test_on_error_stop_stops_the_source_and_leaves_the_entry_pending(url: str, real_redis: redis.Redis) -> None:
    source = Stream.from_redis("topic", group="lab", url=url, on_error="stop")
    seen: list[int] = []
    source.pluck("n").map(lambda n: 1 // (n - 3)).sink(seen.append)
    ids = push_all(real_redis, "topic", range(6))
    source.start()
    with pytest.raises(
        PipelineError, match=rf"entry {ids[3]}: node 'map\(<lambda>\)'.*ZeroDivisionError.*stays pending"
    ):
        source.join(20)
    assert pending(real_redis, group="lab")[0] == ids[3]
    assert dead(real_redis, group="lab") == []
    assert len(seen) == 3


def test_engine_pushes_on_the_grid_and_emits_the_pushed_entries(
    url: str, real_redis: redis.Redis, started: list[Any]
) -> None:
    ticks = iter(range(1000))
    source = Stream.engine("topic", func=lambda: {"n": next(ticks)}, every=0.02, url=url)
    seen = source.map(lambda e: (e.id, e["n"])).sink_to_list()
    started.append(source)
    source.start()
    wait_until(lambda: len(seen) >= 10, "10 ticks")
    source.stop()
    source.join(20)
    assert [(e.id, e["n"]) for e in Reservoir(real_redis).peek("topic", 1000)] == seen
    assert [n for _, n in seen] == list(range(len(seen)))


def test_engine_continues_when_its_pipeline_raises(url: str, real_redis: redis.Redis, started: list[Any]) -> None:
    source = Stream.engine("topic", func=lambda: {"n": 1}, every=0.02, url=url)
    source.map(lambda _: 1 / 0)
    started.append(source)
    source.start()
    wait_until(lambda: real_redis.xlen("topic") >= 5, "5 entries")


def test_results_go_into_the_reservoir_that_the_source_reads(
    url: str, real_redis: redis.Redis, started: list[Any]
) -> None:
    source = Stream.from_redis("topic", group="lab", url=url)
    source.map(lambda e: {"double": 2 * e["n"]}).to_redis("doubles")
    source.pluck("n").to_redis("plain")
    started.append(source)
    source.start()
    push_all(real_redis, "topic", range(5))
    wait_until(lambda: real_redis.xlen("plain") == 5, "5 results")
    assert [dict(e) for e in Reservoir(real_redis).peek("doubles", 9)] == [{"double": 2 * n} for n in range(5)]
    assert [dict(e) for e in Reservoir(real_redis).peek("plain", 9)] == [{"plain": n} for n in range(5)]


@pytest.mark.parametrize(
    ("address", "error", "why"),
    [
        ("redis://127.0.0.1:1/0", UnavailableError, "redis://127.0.0.1:1/0 does not answer"),
        ("unix:///nowhere/redis.sock", UnavailableError, "does not answer"),
        ("http://127.0.0.1", SettingsError, "expected an address like redis://"),
        ("127.0.0.1:6379", SettingsError, "expected an address like redis://"),
        ("redis://127.0.0.1:port/0", SettingsError, "expected an address like redis://"),
    ],
)
def test_wrong_address_is_one_clear_error_at_the_start(address: str, error: type[Exception], why: str) -> None:
    source = Stream.from_redis("topic", group="lab", url=address)
    source.sink(print)
    with pytest.raises(error, match=why):
        source.start()


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"max_entries": 0}, "max_entries: expected a whole number from 1 on, got 0"),
        ({"max_entries": 0, "batch": 5}, "max_entries: expected a whole number from 1 on, got 0"),
        ({"max_bytes": -1}, "max_bytes: expected a whole number from 1 on, got -1"),
        ({"max_deliveries": 0}, "max_deliveries: expected a whole number from 1 on, got 0"),
        ({"batch": 1.5}, "batch: expected a whole number from 1 on, got 1.5"),
        ({"on_error": "ignore"}, "on_error: expected 'dead_letter' or 'stop', got 'ignore'"),
        ({"lease": "0.9ms"}, "lease: expected a duration of 1 ms or more, got '0.9ms'"),
    ],
)
def test_source_refuses_unusable_options_when_it_is_made(option: dict[str, Any], error: str) -> None:
    with pytest.raises(SettingsError, match=error):
        Stream.from_redis("topic", group="lab", **option)


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"max_entries": 0}, "max_entries: expected a whole number from 1 on, got 0"),
        ({"max_bytes": 0}, "max_bytes: expected a whole number from 1 on, got 0"),
        ({"max_deliveries": -1}, "max_deliveries: expected a whole number from 1 on, got -1"),
        ({"lease_ttl": 0.0005}, "lease_ttl: expected a duration of 1 ms or more, got 0.0005"),
    ],
)
def test_consumer_refuses_options_that_would_make_it_spin(
    real_redis: redis.Redis, option: dict[str, Any], error: str
) -> None:
    with pytest.raises(SettingsError, match=error):
        Consumer(real_redis, "topic", "group", **option)


def test_source_without_a_pipeline_is_refused_before_it_acknowledges(url: str, real_redis: redis.Redis) -> None:
    push_all(real_redis, "topic", range(3))
    source = Stream.from_redis("topic", group="lab", url=url)
    source.map(print)  # collected at once: streamz holds nodes weakly
    with pytest.raises(PipelineError, match="found no connected node"):
        source.start()
    assert real_redis.xinfo_groups("topic") == []


def test_source_restarted_at_once_continues_at_its_position(
    url: str, real_redis: redis.Redis, started: list[Any]
) -> None:
    source = Stream.from_redis("topic", group="lab", url=url)
    seen = source.pluck("n").sink_to_list()
    started.append(source)
    ids = push_all(real_redis, "topic", range(300))
    for _ in range(5):
        source.start()
        source.stop()
    source.start()
    wait_until(lambda: len(seen) == len(ids), "all entries")
    assert seen == list(range(300))


def test_pipeline_whose_windows_hold_entries_cannot_be_started_again(url: str, real_redis: redis.Redis) -> None:
    source = Stream.from_redis("topic", group="lab", url=url)
    seen = source.pluck("n").sliding_window(3, return_partial=False).sink_to_list()
    push_all(real_redis, "topic", range(5))
    source.start()
    wait_until(lambda: len(seen) == 3, "3 windows")
    source.stop()
    source.join(20)
    with pytest.raises(PipelineError, match="got 2 entries of the last run.*build a new pipeline"):
        source.start()


def test_node_added_to_a_running_pipeline_is_guarded(url: str, real_redis: redis.Redis, started: list[Any]) -> None:
    source = Stream.from_redis("topic", group="lab", url=url)
    seen = source.pluck("n").sink_to_list()
    started.append(source)
    source.start()
    push_all(real_redis, "topic", [1])
    wait_until(lambda: seen == [1], "an entry")
    kept = source.map(lambda _: 1 / 0)
    push_all(real_redis, "topic", [2, 3])
    wait_until(lambda: len(dead(real_redis, group="lab")) == 2, "two dead letters")
    del kept


def test_blocked_read_survives_a_flushed_server(url: str, real_redis: redis.Redis, started: list[Any]) -> None:
    source = Stream.from_redis("topic", group="lab", url=url, max_entries=1)
    seen = source.pluck("n").sliding_window(2, return_partial=False).sink_to_list()
    started.append(source)
    source.start()
    push_all(real_redis, "topic", range(3))
    wait_until(lambda: len(seen) == 2, "2 windows")
    real_redis.flushall()
    wait_until(lambda: real_redis.exists("topic") and real_redis.xinfo_groups("topic"), "the group, made again")
    push_all(real_redis, "topic", range(10, 13))
    wait_until(lambda: seen[-1:] == [(11, 12)], "windows of what came after")


def test_full_server_is_an_outage_and_acknowledgements_continue(tmp_path: Path, started: list[Any]) -> None:
    with RedisServer(tmp_path) as server:
        client = redis.Redis.from_url(server.url, protocol=2)
        source = Stream.from_redis("topic", group="lab", url=server.url, lease=1.0)
        seen = source.pluck("n").sink_to_list()
        push_all(client, "topic", range(10))
        source.start()
        wait_until(lambda: len(seen) == 10, "10 entries")
        client.config_set("maxmemory", 1)
        renewed = source.latest_run.consumer._next_renewal
        wait_until(lambda: source.latest_run.consumer._next_renewal > renewed + 2.0, "renewals on a full server")
        client.config_set("maxmemory", 0)
        push_all(client, "topic", range(10, 20))
        wait_until(lambda: len(seen) == 20, "10 more")
        source.stop()
        source.join(20)


def test_no_error_shows_a_password() -> None:
    with pytest.raises(UnavailableError) as caught:
        Reservoir.from_url("redis://user:hunter2@127.0.0.1:1/0?password=hunter2")
    assert "hunter2" not in str(caught.value)
