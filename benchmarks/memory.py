"""Memory that an outlet with a backlog takes beyond its memory at the start."""

import threading
import time
from typing import Any

import psutil

from benchmarks.frames import quotes
from benchmarks.work import connected
from tasks import Reservoir
from tasks.nodes.from_redis import from_redis

__all__ = ["fill_frames", "measure"]

_MB = 2**20


def fill_frames(url: str, topic: str, count: int, rows: int) -> int:
    """Append the same frame `count` times and return its bytes."""
    client = connected(url)
    [(name, data)] = Reservoir(client).encode([{"quotes": quotes(rows)}])[0].items()
    with client.pipeline(transaction=False) as pipe:
        for n in range(count):
            pipe.xadd(topic, {name: data}, id=f"{n + 1}-0")
            if n % 64 == 63:  # noqa: PLR2004 - a few MB per append
                pipe.execute()
        pipe.execute()
    return len(data)


def measure(url: str, topic: str, seconds: float, work: float = 0.0) -> dict[str, float]:
    """Return the peak beyond the start in MB, within `seconds` or until the backlog is done, and the number of entries done.

    work    seconds of work per entry
    """
    length = connected(url).xlen(topic)
    seen = 0

    def sink(_: Any) -> None:
        nonlocal seen
        seen += 1
        if work:
            time.sleep(work)

    source: Any = from_redis(topic, group="memory", url=url)
    kept = source.sink(sink)
    process, peak, over = psutil.Process(), 0, threading.Event()
    start = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    source.start()
    end = time.monotonic() + seconds
    while seen < length and time.monotonic() < end:
        time.sleep(0.01)
    source.stop()
    source.join(20)
    over.set()
    watcher.join()
    del kept
    return {"peak": (peak - start) / _MB, "start": start / _MB, "seen": seen}
