"""Ended sources leave nothing behind: no connection, no thread, no object."""

import gc
import threading
import weakref
from collections import Counter
from typing import Any

import redis
from streamz import Stream
from streamz.sinks import _global_sinks

from deployments.servers.redis_server import RedisServer
from tasks.pipeline.graphs import graph
from tasks.testing import drain
from tests.conftest import THOROUGH
from tests.support.streams import push_all
from tests.support.waiting import wait_until

ROUNDS = 50 if THOROUGH else 10


def alive() -> Counter[str]:
    """Return the numbers of nodes, sources, clients and threads that survive a garbage collection."""
    gc.collect()
    kinds = (Stream, redis.Redis, redis.ConnectionPool, threading.Thread)
    return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, kinds))


def pipeline(source: Stream, timeout: float = 0.05) -> Stream:
    n = source.pluck("n")
    n.timed_window(0.01).sink(len)
    n.timed_window_unique(0.01).sink(len)
    n.partition(3, timeout=timeout).sink(len)
    n.buffer(2).delay(0.0001).rate_limit(0.0001).latest().sink(abs)
    return n.map_async(later).map(later)


async def later(n: int) -> int:
    return n


def test_stopped_sources_leave_nothing_behind(redis_server: RedisServer, real_redis: redis.Redis) -> None:
    push_all(real_redis, "topic", [1, 2])
    nodes: weakref.WeakSet[Any] = weakref.WeakSet()  # of this test only: others may have left some

    def round_of(number: int) -> None:
        source = Stream.from_redis("topic", group=f"g{number}", url=redis_server.url, grace=0.1)
        seen = pipeline(source, timeout=3600)
        seen.to_redis("results")
        results = seen.sink_to_list()
        nodes.update(graph(source))
        source.start()
        wait_until(lambda: len(results) == 2, "both entries")
        source.stop()
        source.join(20)

    def connections() -> int:
        return len(real_redis.client_list())

    round_of(-1)
    before, threads, clients = connections(), threading.active_count(), alive()["Redis"]
    for number in range(ROUNDS):
        round_of(number)
        assert connections() <= before
    assert threading.active_count() <= threads
    gone = {"from_redis", "timed_window", "sink", "to_redis", "map", "partition"}

    def are_gone() -> bool:
        gc.collect()
        return not gone & {type(node).__name__ for node in nodes}

    wait_until(are_gone, "the last graph collected")  # a sleeping loop ends when it wakes up
    assert alive()["Redis"] - clients < ROUNDS
    assert not [sink for sink in _global_sinks if sink in nodes]


def test_drained_pipelines_leave_nothing_behind() -> None:
    pushed = [{"n": 1}, {"n": 2}]
    for _ in range(2):  # tornado keeps a reference to the loop that closed last
        drain(pipeline, pushed, into="results", crash_after=1)
    before = alive()
    for _ in range(ROUNDS):
        run = drain(pipeline, pushed, into="results", crash_after=1)
        assert set(run.results) == {1, 2}
        del run
    assert alive() - before == Counter()


def test_restarted_source_resumes_its_timed_nodes(redis_server: RedisServer, real_redis: redis.Redis) -> None:
    source = Stream.from_redis("topic", group="lab", url=redis_server.url)
    seen: list[int] = []
    source.pluck("n").timed_window(0.01).flatten().sink(seen.append)  # no variable here refers to it
    for n in range(3):
        push_all(real_redis, "topic", [n])
        source.start()
        wait_until(lambda: n in seen, "the entry")  # noqa: B023
        source.stop()
        source.join(20)
        gc.collect()
    assert seen == [0, 1, 2]


def test_graph_is_kept_until_its_last_source_has_ended(redis_server: RedisServer, real_redis: redis.Redis) -> None:
    left, right = (Stream.from_redis(topic, group="lab", url=redis_server.url) for topic in ("left", "right"))
    seen: list[Any] = []
    left.pluck("n").union(right.pluck("n")).sink(seen.append)
    left.start()
    right.start()
    left.stop()
    left.join(20)
    del left
    gc.collect()
    push_all(real_redis, "right", [7])
    wait_until(lambda: seen == [7], "the entry of the source that runs on")
    right.stop()
    right.join(20)


def test_sink_of_a_stopped_source_can_be_destroyed(redis_server: RedisServer, real_redis: redis.Redis) -> None:
    push_all(real_redis, "topic", [1])
    source = Stream.from_redis("topic", group="lab", url=redis_server.url)
    seen: list[Any] = []
    sink = source.sink(seen.append)
    source.start()
    wait_until(lambda: seen, "the entry")
    source.stop()
    source.join(20)
    sink.destroy()
    assert not source.downstreams
    assert sink not in _global_sinks
