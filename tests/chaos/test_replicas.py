"""Runs that share partitions, killed, stopped, suspended and added under load: nothing is lost, doubled or out of order per key."""

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
from tasks.reservoir import Reservoir
from tasks.reservoir.groups import groups_of
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
        if self.unread() > BEHIND:
            return
        with self._client.pipeline(transaction=False) as pipe:
            for key in range(KEYS):
                pipe.xadd(partition_topic("numbers", key % PARTITIONS), {"key": key, "n": self.pushed[key]})
                self.pushed[key] += 1
            pipe.execute()

    def unread(self) -> int:
        """Return how many entries no run has read."""
        groups = [group for n in range(PARTITIONS) for group in self._groups(n)]
        return self.pushed.total() - sum(group["entries-read"] or 0 for group in groups)

    def _groups(self, n: int) -> list[Any]:
        found: Any = groups_of(self._client, partition_topic("numbers", n))
        return list(found.values())


def come_and_go(
    url: str, client: redis.Redis, shape: str, folder: Path, *, until: Callable[[Counter[int]], bool]
) -> Counter[int]:
    """Push numbers while runs are killed, stopped, suspended and added; return how many were pushed for each key.

    until    called with these: whether all results are there
    """
    chance, load, runs = random.Random(2), Load(client), []
    done = Counter[str]()
    with Outlets(url, shape, folder, module="tests.chaos.replica") as replicas:
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
        wait_until(lambda: until(load.pushed), "the rest", deadline=180 + EVENTS)
        errors = replicas.seen.read_text()
    sys.stdout.write(f"{shape}: {dict(done)}, {load.pushed.total()} entries, {client.xlen('results')} results\n")
    assert errors == ""
    assert not list(client.scan_iter(match="*:dead:*"))
    return load.pushed


@pytest.mark.timeout(300 + 8 * EVENTS)
@pytest.mark.parametrize("shape", ["plain", "state"])
def test_order_per_key_and_exact_results_while_runs_come_and_go(
    shape: str, redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    pushed = come_and_go(
        redis_server.url, real_redis, shape, tmp_path, until=lambda n: real_redis.xlen("results") >= n.total()
    )
    found: list[Any] = Reservoir(real_redis).peek("results", pushed.total() + 100)
    of_key = {key: [entry for entry in found if entry["key"] == key] for key in range(KEYS)}
    for key, entries in of_key.items():
        assert [entry["n"] for entry in entries] == list(range(pushed[key]))
        if shape == "state":
            assert [entry["count"] for entry in entries] == list(range(1, pushed[key] + 1))
