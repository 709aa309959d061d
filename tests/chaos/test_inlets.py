"""Inlets as real processes whose Redis is killed or out of reach: no tick twice, all in order, missing ones counted."""

import random
import threading
import time
from pathlib import Path

import pytest
import redis

from deployments.servers.redis_server import RedisServer
from tests.chaos.inlet import check, hand_over
from tests.chaos.proxy import Proxy

LONG = [pytest.mark.chaos, pytest.mark.timeout(900)]


def keep_all_that_is_acknowledged(server: RedisServer) -> None:
    """Let Redis write each command to its file before it answers: with a sync per second, it skips that during a sync."""
    with redis.Redis.from_url(server.url, protocol=2) as client:
        client.config_set("appendfsync", "always")


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=LONG)])
def test_redis_restart_duplicates_no_tick_and_every_missed_tick_is_counted(kills: int, tmp_path: Path) -> None:
    chance, waits = random.Random(2), threading.Event()
    with RedisServer(tmp_path / "redis") as server:
        keep_all_that_is_acknowledged(server)

        def crash() -> None:
            server.kill()
            waits.wait(chance.uniform(0, 0.5))
            server.start()
            keep_all_that_is_acknowledged(server)
            waits.wait(chance.uniform(0, 1.0))  # a run that starts at once finds the ticks that the others have pumped

        counts = hand_over(server.url, kills - 1, pause=0.5, meanwhile=crash)
        with redis.Redis.from_url(server.url, protocol=2) as client:
            print(f"\n{kills} kills of Redis, {check(client, counts)}")  # noqa: T201
    assert counts["pushed"] > 5 * kills


@pytest.mark.parametrize(
    ("deliver", "holes", "timeout"),
    [
        pytest.param(True, 6, 0.1, id="delivered late"),
        pytest.param(True, 5, 5.0, id="delivered late, the real timeout", marks=LONG),
        pytest.param(False, 5, 5.0, id="never, the real timeout", marks=LONG),
    ],
)
def test_long_redis_outage_duplicates_no_tick_and_every_missed_tick_is_counted(
    redis_server: RedisServer,
    real_redis: redis.Redis,
    tmp_path: Path,
    *,
    deliver: bool,
    holes: int,
    timeout: float,
) -> None:
    with Proxy(tmp_path, redis_server.socket) as proxy:

        def stand_still() -> None:
            with proxy.hole(deliver=deliver):
                time.sleep(2 * timeout)  # the outage itself

        counts = hand_over(proxy.url, holes, pause=3 * timeout, meanwhile=stand_still, socket_timeout=timeout)
    assert proxy.swallowed > holes
    print(f"\n{holes} holes, {check(real_redis, counts)}")  # noqa: T201
    assert counts["pushed"] > 5


@pytest.mark.parametrize(("every", "pause", "times"), [(0.02, 0.7, 30), (60.0, 61.0, 5)], ids=["20 ms", "a minute"])
@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_the_shortest_and_the_longest_beat_lose_no_tick_in_silence_and_double_none(
    redis_server: RedisServer, real_redis: redis.Redis, every: float, pause: float, times: int
) -> None:
    counts = hand_over(redis_server.url, times, pause=pause, every=every)
    print(f"\nevery {every} s: {check(real_redis, counts, every=every)}")  # noqa: T201
    assert counts["pushed"] > times / 2
