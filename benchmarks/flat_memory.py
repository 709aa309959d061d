"""Memory of an outlet that remembers, and of its Redis, over many entries: both are to stay flat.

A sum over all entries, one of each key, and bars of a minute and key, all kept. The topic keeps its newest entries only, so that what
grows is a fault. Event times advance by a millisecond an entry, and are those of the past: a million entries are 17 minutes.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil

from benchmarks.work import TOPIC, connected, wait
from tasks.nodes import keyed_state, time_window  # noqa: F401 - register themselves with streamz
from tasks.nodes.from_redis import from_redis
from tasks.reservoir import Reservoir

__all__ = ["measure"]

_MB = 2**20
_AT_ONCE, _AHEAD = 500, 20_000  # entries of a push, and how many are unread at most


def measure(url: str, count: int, *, keys: int = 1_000, keep: int = 50_000, parts: int = 10) -> list[dict[str, float]]:
    """Return, after each tenth of `count` entries, the entries so far, and MB of this process, of Redis, and of two parts there.

    The parts are the topic, and the records of pushes, which stay for ten minutes, so that a push which is sent again changes nothing.

    keys     number of keys
    keep     entries that stay in the topic
    parts    how often to look, if not ten times
    """
    client, group = connected(url), "flat"
    seen, bars = 0, 0

    def see(_: Any) -> None:
        nonlocal seen
        seen += 1

    def see_bar(_: Any) -> None:
        nonlocal bars
        bars += 1

    source: Any = from_redis(TOPIC, group=group, url=url)
    kept = [
        source.accumulate(_total, start=0).sink(see),
        source.keyed_state(_of_key, key=lambda entry: entry["key"], start=0, returns_state=True).sink(_ignore),
        source.time_window("1min", by="time", key="key").agg(n=("n", "count"), last=("n", "last")).sink(see_bar),
    ]
    source.start()
    reservoir, found = Reservoir(connected(url)), []
    began = time.time_ns() // 10**6 - count
    for pushed in _pushes(count, parts):
        for first in range(pushed.start, pushed.stop, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, pushed.stop))
            wait(lambda first=first: first - seen < _AHEAD, "entries to be processed")
            reservoir.push_many(TOPIC, [{"key": n % keys, "n": n, "time": began + n} for n in numbers], keep=keep)
        wait(lambda end=pushed.stop: seen >= end, "the entries of a part")
        wait(lambda: not client.xpending(TOPIC, group)["pending"], "their acknowledgements")
        found.append(_sample(client, pushed.stop))
        sys.stderr.write(f"  {found[-1]}\n")
    source.stop()
    source.join(20)
    minutes = (
        began + count - 1
    ) // 60_000 - began // 60_000  # that the last entry has closed, the first perhaps in part
    if bars < keys * (minutes - 1):
        msg = f"expected at least the bars of {minutes - 1} minutes, got {bars}"
        raise RuntimeError(msg)
    del kept
    return found


def _pushes(count: int, parts: int) -> Iterator[range]:
    for n in range(parts):
        yield range(n * count // parts, (n + 1) * count // parts)


def _sample(client: Any, entries: int) -> dict[str, float]:
    records = [client.memory_usage(key) or 0 for key in client.scan_iter(match="sluice:push:*", count=1_000)]
    return {
        "entries": entries,
        "process": round(psutil.Process().memory_info().rss / _MB, 1),
        "redis": round(client.info("memory")["used_memory"] / _MB, 1),
        "topic": round(client.memory_usage(TOPIC, samples=0) / _MB, 1),
        "records": round(sum(records) / _MB, 1),
    }


def _total(total: int, entry: Any) -> int:
    return total + entry["n"]


def _of_key(total: int, entry: Any) -> tuple[int, int]:
    return total + entry["n"], total + entry["n"]


def _ignore(_: Any) -> None:
    pass
