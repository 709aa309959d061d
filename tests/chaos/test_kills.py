"""Outlets killed under load lose nothing, keep order, and double no result. CHAOS_KILLS=200 for `make chaos`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from deployments.redis_server import RedisServer
from tasks.reservoir import Reservoir
from tests.waiting import wait_until

KILLS = int(os.environ.get("CHAOS_KILLS", "4"))


@pytest.mark.timeout(60 + 5 * KILLS)
@pytest.mark.parametrize("shape", ["plain", "windows", "results"])
def test_kills_lose_nothing_and_keep_order(
    shape: str, redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    log = tmp_path / "seen"
    log.touch()
    reservoir = Reservoir(real_redis)
    real_redis.xgroup_create("numbers", "lab", id="0", mkstream=True)
    command = [sys.executable, "-m", "tests.chaos.outlet", redis_server.url, shape, str(log), str(KILLS), "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as outlets:
        assert outlets.stdin
        assert outlets.stdout
        pushed = 0
        os.set_blocking(outlets.stdout.fileno(), False)

        def all_killed() -> bool:
            nonlocal pushed
            reservoir.push_many("numbers", [{"n": pushed + i} for i in range(10)])
            pushed += 10
            assert outlets.poll() is None, "the outlets ended"
            return bool(outlets.stdout.read())  # type: ignore[union-attr]

        wait_until(all_killed, "the kills", deadline=30 + 3 * KILLS)

        def done() -> bool:
            group = real_redis.xinfo_groups("numbers")[0]
            held = 2 if shape == "windows" else 0
            return group["last-delivered-id"] == real_redis.xinfo_stream("numbers")["last-generated-id"] and (
                group["pending"] <= held
            )

        wait_until(done, "the rest", deadline=60)
        outlets.stdin.close()
    if shape == "results":
        results = [int((fields or {})[b"n"]) for _, fields in real_redis.xrange("results") or []]
        sys.stdout.write(f"{shape}: {KILLS} kills, {pushed} entries, {len(results)} results\n")
        assert results == list(range(pushed))
        return
    seen = [json.loads(line) for line in log.read_text().splitlines()]
    first = list(dict.fromkeys(tuple(x) if isinstance(x, list) else x for x in seen))
    expected = list(range(pushed)) if shape == "plain" else [(i, i + 1, i + 2) for i in range(pushed - 2)]
    sys.stdout.write(f"{shape}: {KILLS} kills, {pushed} entries, {len(seen) - len(first)} repeats\n")
    assert first == expected
