"""Measures a scrape of the metrics: `python -m benchmarks.scrape [TOPICS]`.

Each topic has 1,000 entries and three groups, of which one lags; half of the topics have an inlet. The keys of the ticks of
the last ten minutes exist too, because a scan for names passes them.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import redis

from deployments.metrics.exporter import Exporter
from deployments.servers.redis_server import RedisServer
from tasks import Reservoir
from tasks.pump.ticks import Beat

SCRAPES = 20
TICKS = 600
PAUSE = 1.1  # seconds: scrapes of the same second share one reading


def fill(client: redis.Redis, topics: int) -> None:
    """Fill the reservoir."""
    known: Any = client
    reservoir = Reservoir(client)
    for n in range(topics):
        topic = f"topic{n}"
        for _ in range(10):
            reservoir.push_many(topic, [{"n": i} for i in range(100)], keep="1h, 5000")
        for group, start in (("first", "0"), ("second", "$"), ("third", "$")):
            known.xgroup_create(topic, group, start)
        known.xreadgroup("first", "c", {topic: ">"}, count=500)
        if n % 2:
            beat = Beat(reservoir, topic, f"inlet{n}", every=1.0)
            beat.start(time.time())
            beat.count({"pushed": 1, "entries": 1})
            with client.pipeline(transaction=False) as pipe:
                for tick in range(TICKS):
                    pipe.set(f"{beat.key}:{tick}", "=1-0", px=600_000)
                pipe.execute()


def cpu_of(client: redis.Redis) -> float:
    """Return the CPU seconds that the server has used."""
    info: Any = client.info("cpu")
    return info["used_cpu_user"] + info["used_cpu_sys"]


def main(topics: int) -> None:
    """Print the duration of scrapes, in total and in Redis."""
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as server:
        client = redis.Redis.from_url(server.url, protocol=2)
        fill(client, topics)
        opener = build_opener(ProxyHandler({}))
        with Exporter(lambda: client, host="127.0.0.1", port=0) as exporter:
            took, cpu, own = [], [], []
            for _ in range(SCRAPES):
                before, used, began = cpu_of(client), time.process_time(), time.perf_counter()
                with opener.open(exporter.url, timeout=60) as response:
                    size = len(response.read())
                took.append(time.perf_counter() - began)
                own.append(time.process_time() - used)
                cpu.append(cpu_of(client) - before)
                time.sleep(PAUSE)
        print(f"{topics} topics, {3 * topics} groups, {client.dbsize()} keys; {size:,} bytes a scrape")
        print(f"first scrape, which looks for names: {took[0] * 1000:.0f} ms")
        for name, values in (("scrape", took[1:]), ("CPU of the exporter", own[1:]), ("CPU of Redis", cpu[1:])):
            print(f"{name}: median {statistics.median(values) * 1000:.1f} ms, longest {max(values) * 1000:.1f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
