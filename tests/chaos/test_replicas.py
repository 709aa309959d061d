"""Runs that share partitions, killed, stopped, suspended and added under load: nothing is lost, doubled or out of order per key."""

import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis

from deployments.servers.redis_server import RedisServer
from tasks.reservoir import Reservoir
from tasks.reservoir.topic_names import partition_topic
from tests.chaos.outlet import Outlets
from tests.chaos.replica import LEASE, PARTITIONS
from tests.support.waiting import wait_until

EVENTS = int(os.environ.get("CHAOS_KILLS", "6"))
KEYS = 12
BEHIND = 2_000  # entries


class Load:
    """Pushes numbers, counted for each key, to the partitions of the keys."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.pushed: Counter[int] = Counter()

    def push_some(self) -> None:
        """Push one number for each key, unless the runs are far behind: a backlog that is never worked off shows nothing more."""
        if self.pushed.total() - self._client.xlen("results") > BEHIND:
            return
        with self._client.pipeline(transaction=False) as pipe:
            for key in range(KEYS):
                pipe.xadd(partition_topic("numbers", key % PARTITIONS), {"key": key, "n": self.pushed[key]})
                self.pushed[key] += 1
            pipe.execute()


@pytest.mark.timeout(90 + 8 * EVENTS)
@pytest.mark.parametrize("shape", ["plain", "state"])
def test_order_per_key_and_exact_results_while_runs_come_and_go(
    shape: str, redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    chance, load, runs = random.Random(2), Load(real_redis), []
    done = Counter[str]()
    with Outlets(redis_server.url, shape, tmp_path, module="tests.chaos.replica") as replicas:
        runs = [replicas.start(), replicas.start()]
        suspended: list[int] = []
        for _ in range(EVENTS):
            end = time.monotonic() + chance.uniform(0.1, 2 * LEASE)
            wait_until(lambda end=end: load.push_some() or time.monotonic() > end, "the next event")
            act = chance.choice(["kill", "stop", "suspend", "join"] if len(runs) < 4 else ["kill", "stop", "suspend"])
            done[act] += 1
            for zombie in suspended:
                os.kill(zombie, signal.SIGCONT)
            runs += suspended
            suspended = []
            if act != "join":
                victim = runs.pop(chance.randrange(len(runs)))
                os.kill(victim, {"kill": signal.SIGKILL, "stop": signal.SIGTERM, "suspend": signal.SIGSTOP}[act])
                suspended += [victim] if act == "suspend" else []
            if act == "join" or len(runs) < 2:
                runs.append(replicas.start())
        for zombie in suspended:
            os.kill(zombie, signal.SIGCONT)
        total = load.pushed.total()
        wait_until(lambda: real_redis.xlen("results") >= total, "the rest", deadline=60 + EVENTS)
        errors = replicas.seen.read_text()
    found: list[Any] = Reservoir(real_redis).peek("results", total + 100)
    sys.stdout.write(f"{shape}: {dict(done)}, {total} entries, {len(found)} results\n")
    of_key = {key: [entry for entry in found if entry["key"] == key] for key in range(KEYS)}
    for key, entries in of_key.items():
        assert [entry["n"] for entry in entries] == list(range(load.pushed[key]))
        if shape == "state":
            assert [entry["count"] for entry in entries] == list(range(1, load.pushed[key] + 1))
    assert errors == ""
    assert not list(real_redis.scan_iter(match="*:dead:*"))
