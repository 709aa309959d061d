"""Outlets with windows and joins, killed under load: their results are those of a replay. CHAOS_KILLS=200 for `make chaos`."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from tasks.reservoir import Reservoir
from tests.chaos.outlet import SHAPES
from tests.chaos.test_kills import KILLS, kill_under_load
from tests.support.waiting import wait_until


def results(client: redis.Redis) -> list[dict[str, Any]]:
    found: list[Any] = Reservoir(client).peek("results", 1_000_000)
    return [dict(one) for one in found]


def of(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row["made"] for row in rows if row["of"] == name]


def is_complete(rows: list[dict[str, Any]], pushed: int) -> bool:
    """Return whether all entries are in a window, a later window, a session and, if even, in a pair."""
    counted = [sum(int(float(made["n"])) for made in of(rows, name)) for name in ("windows", "later", "sessions")]
    return [*counted, len(of(rows, "asof"))] == [pushed, pushed, pushed, (pushed + 1) // 2]


@pytest.mark.timeout(120 + 10 * KILLS)
def test_kills_leave_windows_and_joins_as_a_replay_has_them(
    redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    pushed, in_flight = kill_under_load(
        redis_server.url, real_redis, "windowed", tmp_path, load=10, until=lambda n: is_complete(results(real_redis), n)
    )
    assert not real_redis.exists("numbers:dead:lab")
    live = results(real_redis)
    source = Stream.from_redis("numbers", group="replay", client=real_redis, start_from="beginning", start=False)
    SHAPES["windowed"](source.pluck("n"), lambda _: None)
    source.start()
    wait_until(lambda: is_complete(results(real_redis)[len(live) :], pushed), "the replay")
    source.stop()
    source.join(30)
    replay = results(real_redis)[len(live) :]
    counts = Counter(row["of"] for row in live)
    sys.stdout.write(f"windows: {KILLS} kills, {pushed} entries, {sum(in_flight)} in flight, results {dict(counts)}\n")
    for name in counts:
        assert of(live, name) == of(replay, name), name
    assert counts["near"] > pushed // 2
