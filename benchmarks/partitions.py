"""Entries per second of runs that share a partitioned topic, beside one run on a plain topic, with the same pipeline.

The pipeline has a window and a sum for each key, whose state is kept. The runs have joined, and own their partitions, before the
entries come: one script appends all of them.
"""

import asyncio
import time
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import redis
from tornado.ioloop import IOLoop

from benchmarks.children import Child, ready
from benchmarks.work import TOPIC, connected, wait
from tasks.nodes.from_redis import from_redis
from tasks.nodes.replica import Replica
from tasks.reservoir import Reservoir
from tasks.reservoir.keys import members_key
from tasks.reservoir.topic_names import partition_topic

__all__ = ["PARTITIONS", "SPLIT", "compare", "push", "run"]

KEYS, PARTITIONS = 100, 4
SPLIT = 8  # partitions of frames
_SETTLE = 3.0  # seconds after all runs have joined
_FILL = """
for i = 0, ARGV[1] - 1 do
  local key = i % tonumber(ARGV[2])
  redis.call('XADD', KEYS[key % #KEYS + 1], '*', 'key', key, 'n', i)
end
"""


def _streams(partitions: int) -> list[str]:
    return [partition_topic(TOPIC, n) for n in range(partitions)] if partitions else [TOPIC]


def _is_done(client: Any, group: str, partitions: int) -> bool:
    for stream in _streams(partitions):
        [info] = [each for each in client.xinfo_groups(stream) if each["name"].decode() == group]
        if info["pending"] or info["last-delivered-id"] != client.xinfo_stream(stream)["last-generated-id"]:
            return False
    return True


def _add(total: int, window: tuple[Any, ...]) -> tuple[int, int]:
    return total + window[-1]["n"], total


def _pipeline(source: Any, work: float, seen: list[int]) -> Any:
    def count(_: int) -> None:
        seen[0] += 1

    def worked(entry: Any) -> Any:
        end = time.perf_counter() + work
        while time.perf_counter() < end:
            pass
        return entry

    windows = source.map(worked).sliding_window(10, key=lambda entry: entry["key"])
    sums = windows.keyed_state(_add, key=lambda window: window[-1]["key"], start=0, returns_state=True)
    return sums.sink(count)


def run(url: str, group: str, partitions: int, work: float) -> int:
    """Process a share of the partitions, or with `partitions` = 0 a plain topic, until the parent lets it end; return the number of results."""
    seen = [0]
    client = connected(url)

    async def main() -> None:
        kept: list[Any] = []

        def build(n: int | None) -> from_redis:
            topic = TOPIC if n is None else partition_topic(TOPIC, n)
            source = from_redis(topic, group=group, url=url, partition=n, loop=IOLoop.current(), asynchronous=True)
            kept.append(_pipeline(source, work, seen))
            return source

        alone = None if partitions else build(None)
        replica = Replica(client, group, partitions, build=build, ttl=10.0)
        if alone is not None:
            alone.start()
        waiting = asyncio.create_task(asyncio.to_thread(ready))
        while not waiting.done():
            if alone is None:
                await replica.step()
            await asyncio.sleep(0.5)
        if alone is not None:
            alone.stop()
            await asyncio.wrap_future(alone.outcome)
        await replica.stop()

    asyncio.run(main())
    return seen[0]


def compare(url: str, group: str, *, runs: int, partitions: int, count: int, work: float) -> float:
    """Return the seconds that `runs` runs take for `count` entries."""
    client: redis.Redis = connected(url)
    children = [
        Child("partitions:run", url=url, group=group, partitions=partitions, work=work).until_ready()
        for _ in range(runs)
    ]
    if partitions:
        wait(lambda: client.zcard(members_key(group)) == runs, "the runs to join")
    time.sleep(_SETTLE)
    streams = _streams(partitions)
    client.eval(_FILL, len(streams), *streams, count, KEYS)
    began = time.perf_counter()
    wait(lambda: _is_done(client, group, partitions), "the group to be done")
    took = time.perf_counter() - began
    for child in children:
        child.go()
    if (seen := sum(child.result() for child in children)) != count:
        msg = f"expected {count} results, got {seen}"
        raise RuntimeError(msg)
    client.flushall()
    return took


def push(url: str, partitions: int, count: int, rows: int) -> float:
    """Return the seconds that one push of a frame of `rows` rows takes, split by rows if there are `partitions`; the median of `count`."""
    numbers = np.random.default_rng(1).random((8, rows))
    frame = pd.DataFrame(
        {"code": [f"{600_000 + n}" for n in range(rows)], **{f"c{n}": each for n, each in enumerate(numbers)}}
    )
    reservoir = Reservoir(connected(url))
    options: dict[str, Any] = {"partitions": partitions, "key": "code"} if partitions else {}
    took = []
    for _ in range(count):
        began = time.perf_counter()
        reservoir.push(TOPIC, {"quotes": frame}, keep=5, **options)
        took.append(time.perf_counter() - began)
    connected(url).flushall()
    return median(took)
