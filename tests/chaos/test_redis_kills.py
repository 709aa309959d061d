"""Redis that is killed under load keeps each acknowledged push in its append-only file, once."""

import random
import threading
import time
from pathlib import Path

import pytest
import redis

from deployments.servers.redis_server import RedisServer
from tasks.reservoir import Reservoir
from tasks.reservoir.connection import connect
from tests.chaos.outlet import Outlets, numbers_in
from tests.support.waiting import wait_until

EACH = 10


def push_until(stopping: threading.Event, url: str, pushed: list[str]) -> None:
    """Push numbers, repeat each push until it is answered, and note the returned ids."""
    with connect(url) as client:
        reservoir = Reservoir(client)
        while not stopping.wait(0.005):
            n = len(pushed)
            encoded = reservoir.encode([{"n": n + i} for i in range(EACH)])
            while True:
                try:
                    pushed += reservoir.append("numbers", encoded, record=f"sluice:push:{n}") or []
                    break
                except redis.RedisError:
                    stopping.wait(0.05)


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=[pytest.mark.chaos, pytest.mark.timeout(400)])])
def test_pushes_acknowledged_by_a_killed_redis_are_processed_with_results_once(kills: int, tmp_path: Path) -> None:
    chance, stopping = random.Random(1), threading.Event()
    pushed: list[str] = []
    with RedisServer(tmp_path / "redis") as server, Outlets(server.url, "results", tmp_path) as outlets:
        pusher = threading.Thread(target=push_until, args=(stopping, server.url, pushed), daemon=True)
        pusher.start()
        outlets.start()
        with redis.Redis.from_url(server.url, protocol=2) as client:
            client.config_set("appendfsync", "always")  # with everysec, a kill in a sync may cost an entry
            for _ in range(kills):
                before = client.xlen("results")
                wait_until(lambda before=before: client.xlen("results") > before, "results")
                time.sleep(chance.uniform(0, 0.3))  # the random point
                server.kill()
                server.start()
                client.config_set("appendfsync", "always")
            stopping.set()
            pusher.join(20)
            wait_until(lambda: client.xlen("results") >= len(pushed), "the rest")
            entries = numbers_in(client, "numbers")
            results = list(numbers_in(client, "results").values())
            assert not client.exists("numbers:dead:lab")
    print(f"\n{kills} kills of Redis, {len(pushed)} entries acknowledged, {len(results)} results")  # noqa: T201
    assert list(entries) == pushed
    assert list(entries.values()) == results == list(range(len(pushed)))
