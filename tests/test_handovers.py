"""Hand-overs between real processes on a real Redis: each run is a process, forked to save the imports."""

import math
import multiprocessing
import random
import time
import warnings
from typing import Any

import pytest
import redis

from deployments.redis_server import RedisServer
from tasks import Reservoir
from tasks.connection import connect
from tasks.pump import Pumping
from tasks.ticks import Beat

EVERY = 0.1
# What the runs said of ticks that did not come.
SAID = "said"


def pump_for(url: str, window: float, block: float = 0.0, every: float = EVERY, threads: int = 0) -> None:
    """Be one run: push the tick, and how long after it the pump began."""

    def pump() -> dict[str, Any]:
        now = time.time()
        tick = math.floor(now / every)
        time.sleep(block)
        return {"tick": tick, "off": now - tick * every}

    client = connect(url)
    beat = Beat(Reservoir(client), "topic", "pump", every=every)
    summary = Pumping(pump, name="pump", beat=beat, window=window, threads=threads).run()
    client.hincrby(SAID, "lost", summary.lost)
    for reason, ticks in summary.reasons.items():
        client.hincrby(SAID, reason, ticks)


def hand_over(url: str, times: int, *, pause: float, kill: float = 0.0, **run: Any) -> int:
    """Start a run every `pause` seconds, killing one at random with the chance `kill`; return how many were killed."""
    context, chance, killed = multiprocessing.get_context("fork"), random.Random(4), 0
    processes: list[Any] = []
    for _ in range(times + 1):
        process = context.Process(target=pump_for, args=(url, 6 * pause), kwargs=run, daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads: they hold nothing
            process.start()
        processes.append(process)
        process.join(pause * chance.uniform(0.8, 1.2))
        if chance.random() < kill:
            victim = chance.choice([one for one in processes if one.is_alive()] or processes)
            killed += victim.is_alive()
            victim.kill()
    for process in processes:
        process.join(6 * pause + 30)  # its window, and what is under way then
        assert not process.is_alive()
    return killed


def said(client: redis.Redis) -> dict[str, int]:
    """Return how many ticks the runs said were missed or lost, by reason."""
    return {reason.decode(): int(ticks) for reason, ticks in client.hgetall(SAID).items() if int(ticks)}


def what_came(client: redis.Redis) -> tuple[list[int], list[float]]:
    entries = Reservoir(client).peek("topic", 1_000_000)
    return [entry["tick"] for entry in entries], sorted(entry["off"] for entry in entries)


def test_hand_overs_double_no_tick_keep_their_order_and_lose_none_in_silence(
    redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    """On a machine that is busy with other things a run may be late for a tick: it says so."""
    hand_over(redis_server.url, 4, pause=0.5)
    ticks, _ = what_came(real_redis)
    assert len(ticks) > 20
    assert ticks == sorted(set(ticks))
    assert ticks[-1] + 1 - ticks[0] - len(ticks) <= sum(said(real_redis).values())


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_hundred_hand_overs_lose_no_tick_double_none_and_keep_their_order(
    redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    hand_over(redis_server.url, 100, pause=0.7)
    ticks, off = what_came(real_redis)
    print(f"\n{len(ticks)} ticks, {sum(o < 0.02 for o in off) / len(off):.2%} within 20 ms of the grid, p50 {off[len(off) // 2] * 1000:.2f} ms, p99.9 {off[int(0.999 * (len(off) - 1))] * 1000:.1f} ms, worst {off[-1] * 1000:.1f} ms")  # fmt: skip # noqa: T201
    print(f"the runs said: {said(real_redis)}")  # noqa: T201
    assert ticks == list(range(ticks[0], ticks[-1] + 1))


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_hundred_hand_overs_with_kills_double_no_tick_and_keep_their_order(
    redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    killed = hand_over(redis_server.url, 100, pause=0.7, kill=0.4)
    ticks, _ = what_came(real_redis)
    print(f"\n{killed} killed, {len(ticks)} of {ticks[-1] - ticks[0] + 1} ticks pushed")  # noqa: T201
    assert ticks == sorted(set(ticks))


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_pump_that_blocks_six_seconds_pushes_every_second_across_hand_overs(
    redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    hand_over(redis_server.url, 5, pause=20.0, block=6.0, every=1.0, threads=10)
    ticks, _ = what_came(real_redis)
    print(f"\n{len(ticks)} ticks")  # noqa: T201
    assert ticks == list(range(ticks[0], ticks[-1] + 1))
