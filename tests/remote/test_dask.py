"""`scatter` to `gather`: as the same pipeline without Dask, whatever raises or dies."""

import asyncio
import functools
import operator
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream

pytest.importorskip("distributed")

from dask import config
from distributed import Client, default_client

from deployments.servers.redis_server import RedisServer
from flows import outlet
from tasks import PipelineError, Reservoir, SettingsError
from tasks.remote import dask_connection
from tasks.remote.dask_client import connected
from tasks.testing import Bench, drain
from tests.support import remote_calls as on
from tests.support.dask import local_cluster, scheduler, worker, worker_pids
from tests.support.ports import reserve_port
from tests.support.streams import expect_bound, here, pending, push_all
from tests.support.waiting import wait_until

Fresh = Callable[[], redis.Redis]
Build = Callable[[Stream], Stream]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def dask() -> Iterator[Client]:
    with local_cluster() as client:
        yield client


# Each takes whole numbers and makes whole numbers, with Dask and without.
SEGMENTS: dict[str, Build] = {
    "map": lambda s: s.map(on.add, 1),
    "map with a keyword": lambda s: s.map(on.add, b=2),
    "starmap": lambda s: s.map(on.pair).starmap(on.add),
    "pluck": lambda s: s.map(on.pair).pluck(0),
    "pluck several": lambda s: s.map(on.pair).pluck([0, 0]).starmap(on.add),
    "filter": lambda s: s.filter(on.is_no_third),
    "remove": lambda s: s.remove(on.is_no_third),
    "flatten": lambda s: s.map(on.twins).flatten(),
    "unique": lambda s: s.unique(key=on.half),
    "accumulate": lambda s: s.accumulate(on.add),
    "accumulate with a start": lambda s: s.accumulate(on.total_and_last, start=1, returns_state=True),
    "accumulate with its state": lambda s: s.accumulate(on.add, with_state=True).starmap(on.add),
    "scan": lambda s: s.scan(on.add),
    "frequencies": lambda s: s.frequencies().map(len),
    "partition": lambda s: s.partition(2).map(sum),
    "partition by key": lambda s: s.partition(2, key=on.half).map(sum),
    "partition_unique": lambda s: s.partition_unique(2, key=on.half).map(sum),
    "sliding_window": lambda s: s.sliding_window(2, return_partial=False).map(sum),
    "zip": lambda s: s.zip(s.map(on.add, 1)).starmap(on.add),
    "zip with a literal": lambda s: s.zip(3).starmap(on.add),
    "combine_latest": lambda s: s.combine_latest(s.map(on.add, 1)).starmap(on.add),
    "zip_latest": lambda s: s.zip_latest(s.map(on.add, 1)).starmap(on.add),
    "union": lambda s: s.union(s.map(on.add, 1)),
    "slice": lambda s: s.slice(1, None, 2),
    "buffer": lambda s: s.buffer(3),
    "delay": lambda s: s.delay(0.001),
    "rate_limit": lambda s: s.rate_limit(0.001),
    "raises": lambda s: s.map(on.no_five),
    "raises in a filter": lambda s: s.filter(on.no_seven),
    "raises in a key": lambda s: s.unique(key=on.no_five),
    "raises in an accumulator": lambda s: s.accumulate(on.sum_below_twenty),
}


@given(segments=st.lists(st.sampled_from(sorted(SEGMENTS)), min_size=1, max_size=4), pushed=st.integers(0, 12))
def test_pipeline_on_dask_does_what_it_does_without(
    fresh_client: Fresh, dask: Client, segments: list[str], pushed: int
) -> None:
    def build(stream: Stream, segments: list[str] = segments) -> Stream:
        for name in segments:
            stream = SEGMENTS[name](stream)
        return stream

    entries = [{"n": n} for n in range(pushed)]
    # A window on Dask keeps elements that no state can hold.
    options = {"keep_state": False}
    plain = drain(lambda s: build(s.pluck("n")), entries, client=fresh_client(), options=options)
    expected = plain.results, plain.dead, plain.pending, plain.acked
    on_dask = drain(lambda s: build(s.pluck("n").scatter()).gather(), entries, client=fresh_client(), options=options)
    assert (on_dask.results, on_dask.dead, on_dask.pending, on_dask.acked) == expected


@pytest.mark.parametrize("name", SEGMENTS)
def test_each_node_on_dask_does_what_it_does_without(client: redis.Redis, dask: Client, name: str) -> None:
    entries = [{"n": n} for n in range(9)]
    plain = drain(lambda s: SEGMENTS[name](s.pluck("n")), entries)
    run = drain(lambda s: SEGMENTS[name](s.pluck("n").scatter()).gather(), entries, client=client)
    assert (run.results, run.dead, run.pending) == (plain.results, plain.dead, plain.pending)
    assert plain.results


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda s: s.accumulate(on.add), [0, 1, 3, 6, 10, 15]),
        (lambda s: s.unique(key=on.half), [0, 2, 4]),
        (lambda s: s.slice(1, None, 2), [1, 3, 5]),
    ],
    ids=["accumulate", "unique", "slice"],
)
def test_state_on_dask_survives_a_stop(client: redis.Redis, dask: Client, build: Build, expected: list[int]) -> None:
    with Bench(lambda s: build(s.pluck("n").scatter()).gather(), client=client) as bench:
        for part in (range(3), range(3, 6)):
            bench.push(*({"n": n} for n in part))
            bench.drain()
            bench.stop()
    assert bench.results == expected


def test_window_on_dask_beside_a_kept_state_is_refused(dask: Client) -> None:
    build = lambda s: s.scatter().sliding_window(2).gather().accumulate(on.add)
    with pytest.raises(PipelineError, match="put it behind gather, or use keep_state=False"):
        Bench(build).step()


@pytest.mark.parametrize(
    "build",
    [
        lambda s: s.timed_window(0.01).gather().map(tuple),
        lambda s: s.timed_window_unique(0.01, key=on.half).gather(),
        lambda s: s.latest().gather(),
    ],
)
def test_nodes_that_group_by_time_keep_the_order(client: redis.Redis, dask: Client, build: Build) -> None:
    run = drain(lambda s: build(s.pluck("n").scatter().map(on.add, 0)), [{"n": n} for n in range(7)], client=client)
    flat = [n for result in run.results for n in (result if isinstance(result, tuple) else [result])]
    assert flat
    assert flat == sorted(set(flat))
    assert run.pending == []


def test_entries_are_acknowledged_when_gathered_and_bounded(client: redis.Redis, dask: Client, tmp_path: Path) -> None:
    """Nothing is acknowledged while the tasks run, and the buffer bounds how many elements are in progress."""
    ids = push_all(client, "topic", range(20))
    gate, seen = tmp_path / "gate", list[int]()

    async def main() -> None:
        source = here(client)
        scattered = source.pluck("n").scatter()
        scattered.map(on.hold, str(gate)).buffer(3).gather().sink(seen.append)
        # Three in the buffer, one that is being gathered, and one that waits for room.
        await expect_bound(
            source, client, ids, received=lambda: scattered.meter.received, bound=5, let_through=gate.touch, deadline=60
        )

    asyncio.run(main())
    assert seen == list(range(20))


@given(failing=st.sets(st.tuples(st.booleans(), st.integers(0, 7))), lost=st.sets(st.integers(0, 7)))
def test_steps_around_dask_are_tried_again_in_order(
    fresh_client: Fresh, dask: Client, failing: set[tuple[bool, int]], lost: set[int]
) -> None:
    """The first attempt of each failing call raises, before `scatter` or behind `gather`; all attempts of a lost one do."""
    failed: list[tuple[bool, int]] = []

    def step(is_behind: bool, n: int) -> int:
        if (n in lost and is_behind) or ((is_behind, n) in failing and (is_behind, n) not in failed):
            failed.append((is_behind, n))
            raise ConnectionError
        return n

    build = lambda s: (
        s.pluck("n")
        .map(functools.partial(step, False))
        .scatter()
        .map(on.no_five)
        .buffer(2)
        .gather()
        .map(functools.partial(step, True))
    )
    run = drain(build, [{"n": n} for n in range(8)], client=fresh_client(), options={"retry": "1ms"})
    not_on_dask = {0, 5}  # one attempt there
    assert run.results == [n for n in range(8) if n not in lost | not_on_dask]
    assert sorted(letter.entry["n"] for letter in run.dead) == sorted(lost | not_on_dask)
    assert [failed.count((True, n)) for n in sorted(lost - not_on_dask)] == [2] * len(lost - not_on_dask)
    assert run.pending == []


def test_letter_names_the_node_and_has_the_traceback_of_the_worker(client: redis.Redis, dask: Client) -> None:
    drain(lambda s: s.pluck("n").scatter().map(on.no_five).map(on.half).gather(), [{"n": 5}], client=client)
    [(_, letter)] = client.xrange("topic:dead:group")
    assert letter[b"dead:node"] == b"map(no_five)"
    assert b"in no_five" in letter[b"dead:traceback"]


def test_stopped_outlet_on_error_stop_leaves_the_failing_entry_pending(client: redis.Redis, dask: Client) -> None:
    bench = Bench(
        lambda s: s.pluck("n").scatter().map(on.no_five).gather(), client=client, options={"on_error": "stop"}
    )
    bench.push({"n": 5})
    with pytest.raises(PipelineError, match="'map.no_five.'.*raised ValueError"):
        bench.drain()
    assert bench.pending == [{"n": 5}]
    bench.close()


class Uncarried:
    def __reduce__(self) -> Any:
        raise TypeError


def test_element_that_cannot_be_pickled_fails_its_entry_only(dask: Client) -> None:
    build = lambda s: s.pluck("n").map(lambda n: Uncarried() if n == 1 else n).scatter().map(on.lock_of_two).gather()
    run = drain(build, [{"n": n} for n in range(4)])
    assert run.results == [0, 3]
    assert [letter.node for letter in run.dead] == ["scatter", "map(lock_of_two)"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda s: s.scatter().map(on.half).sink(print), r"put \.gather\(\) before it"),
        (lambda s: s.scatter().map(on.half), r"expected \.gather\(\) behind it"),
        (lambda s: s.scatter().map(threading.Lock().acquire).gather(), "can be pickled.*within the function"),
        (lambda s: s.scatter().map(asyncio.sleep).gather(), "use map_async for an async one"),
        (lambda s: s.scatter().map(on.half, retry="1s").gather(), "no `retry` between scatter and gather"),
        (lambda s: s.scatter().starmap(on.add, retry="1s").gather(), "no `retry` between scatter and gather"),
        (lambda s: Stream.zip(s.scatter(), s), r"put \.gather\(\) before it, or join with .*a\.zip\(b\)"),
    ],
)
def test_pipeline_that_would_lose_entries_on_dask_is_refused(
    client: redis.Redis, dask: Client, build: Build, message: str
) -> None:
    async def main() -> None:
        source = here(client)
        kept = build(source)
        with pytest.raises(PipelineError, match=message):
            source.open()
        del kept

    asyncio.run(main())


@pytest.mark.slow
def test_entry_that_kills_its_workers_becomes_a_dead_letter() -> None:
    # Dask gives a task up after one dead worker instead of four, which is quicker.
    with config.set({"distributed.scheduler.allowed-failures": 0}), local_cluster():
        run = drain(
            lambda s: s.pluck("what").scatter().map(on.do, "").buffer(4).gather(),
            [{"what": what} for what in ("return 0", "die 1", "return 2", "return 3")],
        )
    assert run.results == ["return 0", "return 2", "return 3"]
    [letter] = run.dead
    assert letter.entry == {"what": "die 1"}
    assert "the Dask workers that ran it died" in letter.exception


@pytest.mark.slow
@pytest.mark.parametrize("timeout", ["15s", "1ms"], ids=["cluster restarts workers", "cluster forgets workers"])
def test_killed_workers_cost_no_result_and_double_none(
    redis_server: RedisServer, real_redis: redis.Redis, timeout: str
) -> None:
    with config.set({"distributed.deploy.lost-worker-timeout": timeout}), local_cluster() as client:
        source = Stream.from_redis("topic", group="group", url=redis_server.url)
        gathered = source.pluck("n").scatter().map(on.add, 0).buffer(8).gather()
        kept = gathered.to_redis("results", keep=None)
        push_all(real_redis, "topic", range(300))
        source.start()
        for results in (20, 80, 140):
            wait_until(
                lambda results=results: real_redis.xlen("results") >= results, f"{results} results", deadline=100
            )
            for pid in worker_pids(client):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: real_redis.xlen("results") >= 300, "all results", deadline=150)
        wait_until(lambda: not pending(real_redis), "all acknowledgements")
        source.stop()
        source.join(20)
        del kept
    assert [entry["results"] for entry in Reservoir(real_redis).peek("results", 1000)] == list(range(300))
    assert not real_redis.exists("topic:dead:group")


@pytest.mark.slow
@pytest.mark.parametrize("timeout", ["60 s", "300 ms"], ids=["client reconnects", "client gives up"])
def test_lost_scheduler_pauses_the_stream(
    redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, timeout: str
) -> None:
    """A window before the loss has its entry after it, and each entry has one result, in order."""
    port = reserve_port()
    processes = [scheduler(port), worker(port)]
    try:
        with Client(f"tcp://127.0.0.1:{port}", timeout="60 s", set_as_default=True) as client:
            client._timeout = {"60 s": 60.0, "300 ms": 0.3}[timeout]
            source = Stream.from_redis("topic", group="group", url=redis_server.url)
            windows = source.pluck("n").scatter().map(on.add, 0).sliding_window(2, return_partial=False).map(sum)
            kept = windows.buffer(4).gather().to_redis("results", keep=None)
            push_all(real_redis, "topic", range(50))
            source.start()
            wait_until(lambda: real_redis.xlen("results") >= 10, "first results", deadline=200)
            for process in processes:
                process.kill()
                process.wait()
            push_all(real_redis, "topic", range(50, 60))
            if timeout == "300 ms":
                wait_until(lambda: client.status == "closed", "the client to give up")
            else:
                wait_until(lambda: client.status == "connecting", "the client to notice")
            processes = [scheduler(port), worker(port)]
            wait_until(lambda: real_redis.xlen("results") >= 59, "all results", deadline=250)
            source.stop()
            source.join(30)
            del kept
    finally:
        for process in processes:
            process.kill()
            process.wait()
    results = [entry["results"] for entry in Reservoir(real_redis).peek("results", 1000)]
    assert results == [2 * n + 1 for n in range(59)]
    assert not real_redis.exists("topic:dead:group")


def test_pipeline_without_a_dask_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Client:
        raise ValueError

    monkeypatch.setattr(dask_connection, "default_client", none)
    with pytest.raises(PipelineError, match="expected a Dask client, found none.*dask='local'"):
        dask_connection.current()


def test_outlet_with_a_local_cluster_runs_its_steps_there(
    redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    push_all(real_redis, "topic", range(5))

    @outlet(topics="topic", group="group", into="results", until="now", dask="local")
    def heavy(source: Stream) -> Stream:
        """Find out where an entry is processed."""
        return source.scatter().map(on.own_pid).buffer(2).gather()

    heavy.fn()
    pids = {entry["results"] for entry in Reservoir(real_redis).peek("results", 10)}
    assert real_redis.xlen("results") == 5
    assert os.getpid() not in pids


def test_local_cluster_measures_nothing_that_no_page_shows() -> None:
    name = "distributed.worker.profile.enabled"
    before = config.get(name)
    with connected("local"):
        assert set(default_client().run(config.get, name).values()) == {False}
    assert config.get(name) == before


@pytest.mark.parametrize("dask_option", ["8786", "dask.example:8786", "locally"])
def test_address_that_is_none_is_refused(dask_option: str) -> None:
    with pytest.raises(SettingsError, match="dask: expected the address of a Dask scheduler"):
        outlet(topics="topic", group="group", dask=dask_option)(operator.index)
