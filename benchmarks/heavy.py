"""A step of 50 ms of computing: inline, in two processes, and on two Dask workers."""

import time
from typing import Any

from benchmarks.work import TOPIC, connected, wait
from tasks.nodes.from_redis import from_redis
from tasks.remote.dask_client import connected as connected_to_dask

__all__ = ["CANDIDATES", "heavy"]

CANDIDATES = ("map", "map_in_processes", "Dask")


def heavy(*, url: str, group: str, name: str, count: int, work: float) -> float:
    """Return the seconds from the first to the last result of `count` entries, in order, `work` seconds of computing each.

    The processes or workers have computed once before.
    """
    seen: list[tuple[int, float]] = []
    source: Any = from_redis(TOPIC, group=group, url=url)
    numbers = source.map(_number)
    with connected_to_dask("local" if name == "Dask" else None):
        if name == "map":
            results = numbers.map(_computed, work)
        elif name == "map_in_processes":
            results = numbers.map_in_processes(_computed, work, workers=2)
        else:
            results = numbers.scatter().map(_computed, work).buffer(8).gather()
        kept = results.sink(lambda n: seen.append((n, time.perf_counter())))
        source.start()
        wait(lambda: len(seen) == count, "all results")
        source.stop()
        source.join(20)
    del kept
    connected(url).xgroup_destroy(TOPIC, group)
    if [n for n, _ in seen] != list(range(count)):
        msg = f"expected the results of {count} entries in order, got others from {name}"
        raise RuntimeError(msg)
    # Both workers may have ended their first call before the first result is seen, so that two results are left out.
    return (seen[-1][1] - seen[1][1]) / (count - 2) * count


def _number(fields: dict[str, Any]) -> int:
    return fields["value"]["n"]


def _computed(n: int, work: float) -> int:
    end = time.process_time() + work
    while time.process_time() < end:
        pass
    return n
