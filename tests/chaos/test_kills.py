"""Outlets killed under load lose nothing, keep order, and double no result. CHAOS_KILLS=200 for `make chaos`."""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from deployments.servers.redis_server import RedisServer
from tasks.group.read_size import MAX_ENTRIES
from tasks.reservoir import Reservoir
from tests.chaos.outlet import LEASE, Outlets, numbers_in
from tests.support.waiting import wait_until

KILLS = int(os.environ.get("CHAOS_KILLS", "4"))
# The most that one consumer holds: two reads that wait, one in the pipeline, one under way.
HELD = 4 * MAX_ENTRIES


def kill_under_load(
    url: str,
    client: redis.Redis,
    shape: str,
    folder: Path,
    *,
    load: int,
    until: Callable[[int], bool] = lambda _: True,
) -> tuple[int, list[int]]:
    """Push `load` entries at a time while outlets are killed and replaced at once; let the last one finish.

    until   called with the number of pushed entries: whether all results are there

    Returns the number of pushed entries, and the numbers in flight at each kill.
    """
    reservoir, chance = Reservoir(client), random.Random(1)
    client.xgroup_create("numbers", "lab", id="0", mkstream=True)
    pushed = 0
    in_flight = []

    def push_on() -> None:
        nonlocal pushed
        reservoir.push_many("numbers", [{"n": pushed + i} for i in range(load)])
        pushed += load

    def is_done() -> bool:
        group = client.xinfo_groups("numbers")[0]
        kept = 2 if shape == "windows" else 0
        return group["last-delivered-id"] == client.xinfo_stream("numbers")["last-generated-id"] and (
            group["pending"] <= kept
        )

    with Outlets(url, shape, folder) as outlets:
        for _ in range(KILLS):
            outlet = outlets.start()
            end = time.monotonic() + chance.uniform(0.05, 2.5 * LEASE)
            wait_until(lambda end=end: push_on() or time.monotonic() > end, "the kill")
            os.kill(outlet, signal.SIGKILL)
            in_flight.append(client.xinfo_groups("numbers")[0]["pending"])
        outlets.start()
        wait_until(is_done, "the rest")
        wait_until(lambda: until(pushed), "the last results")
    return pushed, in_flight


@pytest.mark.timeout(60 + 5 * KILLS)
@pytest.mark.parametrize("shape", ["plain", "windows", "results"])
def test_kills_lose_nothing_and_keep_order(
    shape: str, redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    load = 2 if shape == "results" else 10  # one append each; a backlog that is never processed would show nothing more
    pushed, in_flight = kill_under_load(redis_server.url, real_redis, shape, tmp_path, load=load)
    assert not real_redis.exists("numbers:dead:lab")
    if shape == "results":
        results = list(numbers_in(real_redis, "results").values())
        sys.stdout.write(f"{shape}: {KILLS} kills, {pushed} entries, {len(results)} results\n")
        assert results == list(range(pushed))
        return
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    first = list(dict.fromkeys(tuple(x) if isinstance(x, list) else x for x in seen))
    expected = list(range(pushed)) if shape == "plain" else [(i, i + 1, i + 2) for i in range(pushed - 2)]
    repeats = len(seen) - len(first)
    sys.stdout.write(f"{shape}: {KILLS} kills, {pushed} entries, {sum(in_flight)} in flight, {repeats} repeats\n")
    assert first == expected
    assert repeats <= sum(in_flight)
    assert max(in_flight) <= HELD


@pytest.mark.timeout(60 + 5 * KILLS)
def test_kills_leave_state_and_results_exact(
    redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    pushed, in_flight = kill_under_load(redis_server.url, real_redis, "state", tmp_path, load=10)
    assert not real_redis.exists("numbers:dead:lab")
    found: list[Any] = Reservoir(real_redis).peek("results", pushed)
    sys.stdout.write(f"state: {KILLS} kills, {pushed} entries, {sum(in_flight)} in flight, {len(found)} results\n")
    counts: Counter[int] = Counter()
    for n, result in zip(range(0, pushed, 2), found, strict=True):
        counts[n % 7] += 1
        assert dict(result) == {"n": n, "sum": n * (n + 1) // 2, "count": counts[n % 7]}


@pytest.mark.chaos
@pytest.mark.timeout(60 + 5 * KILLS)
@pytest.mark.parametrize("shape", ["buffer", "rate_limit", "map_async", "zip", "branches"])
def test_kills_lose_nothing_and_keep_order_in_pipelines_that_hold_entries(
    shape: str, redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    pushed, in_flight = kill_under_load(redis_server.url, real_redis, shape, tmp_path, load=2)
    assert not real_redis.exists("numbers:dead:lab")
    seen = [int(line) for line in (tmp_path / "seen").read_text().splitlines()]
    first = list(dict.fromkeys(seen))
    repeats = len(seen) - len(first)
    sys.stdout.write(f"{shape}: {KILLS} kills, {pushed} entries, {sum(in_flight)} in flight, {repeats} repeats\n")
    if shape == "branches":  # in order within each branch
        first.sort(key=lambda n: n % 2)
        assert first == [*range(0, pushed, 2), *range(1, pushed, 2)]
    else:
        assert first == list(range(pushed))
    assert repeats <= sum(in_flight)
