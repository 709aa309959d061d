"""A reservoir with everything that metrics show, and the exporter in front of it."""

from collections.abc import Iterator
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest
import redis
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from deployments.metrics.exporter import Exporter
from tasks import Reservoir
from tasks.pump.ticks import Beat
from tasks.reservoir.retrying import RetryingNotes
from tests.support.streams import push_all, run

__all__ = ["Samples", "scraped"]

Samples = dict[str, list[tuple[dict[str, str], float]]]


@pytest.fixture
def exporter(client: redis.Redis) -> Iterator[Exporter]:
    with Exporter(lambda: client, host="127.0.0.1", port=0) as exporter:
        yield exporter


@pytest.fixture
def filled(client: redis.Redis) -> redis.Redis:
    """Return a Redis with a topic whose group has read, failed, lost and not read entries, and with an inlet."""
    known: Any = client
    push_all(client, "topic", range(6))
    run(lambda source: source.pluck("n").map(lambda n: 1 / n), client)  # the first fails
    push_all(client, "topic", range(4))
    known.xreadgroup("group", "stopped", {"topic": ">"}, count=1)
    known.hincrby("sluice:spilled:topic", "group", 3)
    RetryingNotes(client, "group", "stopped").update({"topic": 2})
    beat = Beat(Reservoir(client), "topic", "quotes", every=1.0, keep="1h, 5MB, 1000")
    beat.start(100.0)
    assert beat.claim(101) == "claimed"
    beat.push(101, Reservoir(client).encode([{"n": 1}]))
    beat.count({"pushed": 1, "missed": 2, "failed": 3, "lost": 0, "nothing": 0, "entries": 1, "bytes": 2})
    return client


def scraped(exporter: Exporter) -> Samples:
    """Return the samples of a scrape by name, with their labels."""
    with build_opener(ProxyHandler({})).open(exporter.url, timeout=30) as response:
        families: list[Metric] = list(text_string_to_metric_families(response.read().decode()))
    samples: Samples = {}
    for family in families:
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return samples
