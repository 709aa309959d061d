"""Connections that are cut at random points, and lost replies, neither lose nor duplicate an entry."""

import contextlib
import os
import resource
from pathlib import Path

import pytest
import redis
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from tasks.reservoir import Reservoir
from tasks.reservoir.connection import connect
from tests.chaos.outlet import numbers_in
from tests.chaos.proxy import Proxy
from tests.support.waiting import wait_until


@pytest.mark.usefixtures("every_way_to_append")
def test_500_pushes_whose_replies_are_lost_at_random_are_500_entries_in_order(
    redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    with (
        Proxy(tmp_path, redis_server.socket, cut=0.02, seed=1) as proxy,
        connect(proxy.url, retries=6) as client,
    ):
        reservoir = Reservoir(client)
        ids = [reservoir.push("numbers", {"n": n}) for n in range(500)]
    assert min(proxy.lost_requests, proxy.lost_replies) >= 5
    assert list(numbers_in(real_redis, "numbers").items()) == list(zip(ids, range(500), strict=True))


def test_outlet_emits_each_entry_and_result_once_when_replies_are_lost(
    redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    seen: list[int] = []
    pushed = 0
    with Proxy(tmp_path, redis_server.socket, cut=0.02, seed=2) as proxy:
        source = Stream.from_redis("numbers", group="lab", url=proxy.url, max_entries=8)
        numbers = source.pluck("n")
        numbers.sink(seen.append)
        numbers.map(lambda n: {"n": n}).to_redis("results")
        source.start()

        def push_on() -> bool:
            nonlocal pushed
            if len(seen) == pushed and pushed < 400:
                Reservoir(real_redis).push_many("numbers", [{"n": pushed + i} for i in range(20)])
                pushed += 20
            return len(seen) >= 400

        wait_until(push_on, "all entries")
        wait_until(lambda: not real_redis.xinfo_groups("numbers")[0]["pending"], "all acknowledgements")
        source.stop()
        source.join(20)
    lost = min(proxy.lost_requests, proxy.lost_replies)
    assert lost >= 5, "too few cuts to show anything"
    assert seen == list(range(pushed))
    assert list(numbers_in(real_redis, "results").values()) == seen
    assert not real_redis.exists("numbers:dead:lab")


def test_the_proxy_serves_a_process_that_holds_more_than_1024_descriptors(
    redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1_200:
        pytest.skip("this process may not hold so many")
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1_200), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while (held := os.dup(0)) < 1_050:
            stack.callback(os.close, held)
        stack.callback(os.close, held)
        proxy = stack.enter_context(Proxy(tmp_path, redis_server.socket))
        with connect(proxy.url, retries=0) as client:
            assert client.ping()
