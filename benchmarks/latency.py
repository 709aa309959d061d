"""Latency from the push to the sink at a steady rate, with the producer in a process of its own."""

import time
from typing import Any

from benchmarks.children import Child
from benchmarks.work import wait
from tasks import Reservoir
from tasks.nodes.from_redis import from_redis

__all__ = ["measure", "produce"]

TOPIC = "bench-latency"


def produce(url: str, rate: int, seconds: float) -> int:
    """Push `rate` entries per second, each with the time of its push; return their number."""
    reservoir = Reservoir.from_url(url)
    count = round(rate * seconds)
    began = time.monotonic()
    for n in range(count):
        time.sleep(max(0.0, began + n / rate - time.monotonic()))
        reservoir.push(TOPIC, {"sent": time.monotonic()})
    return count


def measure(url: str, rate: int, seconds: float) -> dict[str, float]:
    """Return the median, the 99th percentile and the maximum in ms, without the first tenth of the time."""
    times: list[float] = []
    source: Any = from_redis(TOPIC, group="latency", url=url)
    kept = source.pluck("sent").sink(lambda sent: times.append((time.monotonic() - sent) * 1000))
    source.start()
    producer = Child("latency:produce", url=url, rate=rate, seconds=seconds)
    count = producer.result(timeout=seconds * 3 + 30)
    wait(lambda: len(times) == count, "the last entry")
    source.stop()
    source.join(10)
    source.client.delete(TOPIC)
    del kept
    counted = sorted(times[count // 10 :])
    return {
        "p50": counted[len(counted) // 2],
        "p99": counted[len(counted) * 99 // 100],
        "worst": counted[-1],
    }
