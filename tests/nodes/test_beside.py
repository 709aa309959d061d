"""Many outlets as real processes: stopping and resuming some never disturbs another."""

import subprocess
import sys
from pathlib import Path

import redis

from deployments.servers.redis_server import RedisServer
from tasks.reservoir import Reservoir
from tests.support.waiting import wait_until


def test_stopping_and_resuming_two_outlets_never_disturbs_a_third(
    redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    reservoir = Reservoir(real_redis)
    names = ("a", "b", "steady")
    pushed = 0

    def push() -> None:
        nonlocal pushed
        reservoir.push_many("numbers", [{"n": pushed + i} for i in range(5)])
        pushed += 5

    def seen(name: str) -> list[int]:
        file = tmp_path / name
        return [int(line) for line in file.read_text().splitlines()] if file.exists() else []

    def flows_on(name: str) -> None:
        """Push until the outlet has seen an entry."""
        at = pushed
        wait_until(lambda: (push(), any(n >= at for n in seen(name)[-50:]))[-1], f"{name} to see it")

    command = [sys.executable, "-m", "tests.support.beside", redis_server.url, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as outlets:
        assert outlets.stdin
        assert outlets.stdout

        def tell(line: str) -> str:
            assert outlets.stdin
            assert outlets.stdout
            outlets.stdin.write(line + "\n")
            outlets.stdin.flush()
            return outlets.stdout.readline().strip()

        for name in names:
            assert tell(f"start {name}") == f"start {name}"
        for name in names:
            flows_on(name)
        for _ in range(3):
            for name in ("a", "b"):
                assert tell(f"stop {name}") == f"stop 0 {name}"
                flows_on("steady")
            for name in ("b", "a"):
                tell(f"start {name}")
                flows_on(name)
                flows_on("steady")
        for name in names:
            wait_until(lambda name=name: seen(name)[-1] == pushed - 1, f"{name} to see the rest")
        outlets.stdin.close()
    assert seen("steady") == list(range(pushed))
    for name in ("a", "b"):  # a window's last entry is seen once more when it is resumed
        assert list(dict.fromkeys(seen(name))) == list(range(pushed))
        assert len(seen(name)) <= pushed + 3
