"""Runs that share the partitions of a topic as real processes, for tests that kill, stop, suspend and add them.

    python -m tests.chaos.replica URL SHAPE LOG

Started and ended like `tests.chaos.outlet`. SIGTERM stops one in good order.
"""

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from streamz import Stream
from tornado.ioloop import IOLoop

import tasks.nodes.from_redis
import tasks.nodes.join_asof
import tasks.nodes.join_interval
import tasks.nodes.session_window
import tasks.nodes.time_window
import tasks.nodes.to_redis  # noqa: F401 - adds to_redis to Stream
from tasks.nodes.replica import Replica
from tasks.reservoir.connection import connect
from tasks.reservoir.topic_names import partition_topic
from tests.chaos.forking import fork_for_each_line

PARTITIONS = 4
LEASE = 1.5


def _count(count: int, entry: Any) -> tuple[int, dict[str, int]]:
    return count + 1, {**entry, "count": count + 1}


def _remembering(source: Stream) -> None:
    counted = source.keyed_state(_count, key=lambda entry: entry["key"], start=0, returns_state=True)
    counted.to_redis("results", keep=None)


def _windowed(source: Any) -> None:
    """Windows, sessions and joins of each key, at the times of the entries."""
    given: Any = {"key": "key", "close_after": "100ms", "late": "drop"}
    even, odd = source.filter(lambda entry: entry["n"] % 2 == 0), source.filter(lambda entry: entry["n"] % 2)
    results: dict[str, Any] = {
        "windows": source.time_window("20ms", closed_by=True, **given).agg(n=("n", "count"), sum=("n", "sum")),
        "sessions": source.session_window("5ms", **given).agg(n=("n", "count")),
        "asof": even.join_asof(odd, **given).map(_pair),
        "near": even.join_interval(odd, before="30ms", after="30ms", how="left", **given).map(_pair),
    }
    for name, stream in results.items():
        stream.map(lambda made, name=name: {"of": name, **made}).to_redis("results", keep=None)


def _pair(of: Any) -> dict[str, Any]:
    left, right = of
    return {"key": left["key"], "left": left["n"], "right": right and right["n"]}


SHAPES: dict[str, Callable[[Stream], Any]] = {
    "state": _remembering,
    "windowed": _windowed,
    "plain": lambda source: source.map(dict).to_redis("results", keep=None),
}


async def live(url: str, shape: str) -> None:
    """Read a share of the partitions until a SIGTERM."""
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)

    def build(n: int) -> Any:
        topic = partition_topic("numbers", n)
        source: Any = Stream.from_redis(
            topic, group="lab", url=url, lease=LEASE, partition=n, loop=IOLoop.current(), asynchronous=True
        )
        SHAPES[shape](source)
        return source

    replica = Replica(connect(url), "lab", PARTITIONS, build=build, ttl=LEASE)
    while not ending.is_set():
        with suppress(redis.RedisError):
            await replica.step()
        with suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), 0.05)
    await replica.stop()


def main(url: str, shape: str, log: str) -> None:
    """Start a run for each line of the standard input."""
    fork_for_each_line(lambda: asyncio.run(live(url, shape)), errors=log)


if __name__ == "__main__":
    main(*sys.argv[1:])
