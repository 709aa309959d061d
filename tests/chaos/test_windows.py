"""Outlets with windows and joins, killed under load, and runs whose partitions move: their results are those of a replay.

CHAOS_KILLS=200 for `make chaos`.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from tasks.reservoir import Reservoir
from tasks.reservoir.topic_names import partition_topic
from tests.chaos import replica
from tests.chaos.outlet import SHAPES
from tests.chaos.test_kills import KILLS, kill_under_load
from tests.chaos.test_replicas import EVENTS, KEYS, come_and_go
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


KINDS = ["windows", "sessions", "asof", "near"]


def by_key(rows: list[dict[str, Any]]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Return the results of each kind and key, in order."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["of"], row["key"]), []).append(row)
    return found


def has_all(rows: list[dict[str, Any]], pushed: Counter[int]) -> bool:
    """Return whether all entries are in a window, a session and, if even, in pairs of both joins."""
    kinds = {kind: [row for row in rows if row["of"] == kind] for kind in KINDS}
    counted = [sum(row["n"] for row in kinds[kind]) for kind in ("windows", "sessions")]
    joined = [len({(row["key"], row["left"]) for row in kinds[kind]}) for kind in ("asof", "near")]
    even = sum((number + 1) // 2 for number in pushed.values())
    return [*counted, *joined] == [pushed.total(), pushed.total(), even, even]


@pytest.mark.timeout(300 + 10 * EVENTS)
def test_windows_and_joins_move_with_their_partitions_as_a_replay_has_them(
    redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    pushed = come_and_go(
        redis_server.url, real_redis, "windowed", tmp_path, until=lambda n: has_all(results(real_redis), n)
    )
    live = results(real_redis)
    sources: list[Any] = [
        Stream.from_redis(partition_topic("numbers", n), group="replay", client=real_redis, partition=n, start=False)
        for n in range(replica.PARTITIONS)
    ]
    for source in sources:
        replica.SHAPES["windowed"](source)
        source.start()
    wait_until(lambda: has_all(results(real_redis)[len(live) :], pushed), "the replay")
    for source in sources:
        source.stop()
    for source in sources:
        source.join(30)
    replayed = by_key(results(real_redis)[len(live) :])
    found = by_key(live)
    assert found.keys() == replayed.keys() == {(kind, key) for kind in KINDS for key in range(KEYS)}
    for one, rows in found.items():
        assert rows == replayed[one], one
