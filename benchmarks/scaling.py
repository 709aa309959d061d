"""Cost as a function of replicas, entries per push, entries, nodes, backlog and length of the topic."""

import time
from typing import Any

from benchmarks.children import Child, ready
from benchmarks.work import TOPIC, connected, enriched, expected, is_large, is_trade, value, wait
from tasks import Reservoir
from tasks.nodes.from_redis import from_redis
from tasks.reservoir.groups import groups_of
from tasks.reservoir.keys import lease_key

__all__ = ["cost", "push", "push_raw", "replica", "replicas"]


def replica(url: str, group: str, length: int, work: float) -> int:
    """Run one outlet of a group until the topic is done; return the number of entries that it got.

    work    seconds of computing for each entry, before the usual pipeline
    """
    client = connected(url)
    seen: list[Any] = []
    source: Any = from_redis(TOPIC, group=group, url=url)
    start = source.map(_with_work, work) if work else source
    kept = start.filter(is_trade).map(enriched).filter(is_large).sink(seen.append)
    source.start()
    ready()
    wait(lambda: _is_done(client, group, length), "the group to be done")
    source.stop()
    source.join(10)
    del kept
    return len(seen)


def replicas(url: str, group: str, count: int, length: int, work: float) -> float:
    """Return the seconds that `count` outlets of one group take for the topic, once all have started."""
    client = connected(url)
    client.xgroup_create(TOPIC, group, f"{length}-0")
    children = [Child("scaling:replica", url=url, group=group, length=length, work=work) for _ in range(count)]
    for child in children:
        child.until_ready()
    wait(lambda: len(client.keys(lease_key(group, "*"))) == count, "the outlets to join")
    began = time.perf_counter()
    client.xgroup_setid(TOPIC, group, "0")
    wait(lambda: client.xinfo_groups(TOPIC)[0]["last-delivered-id"] != f"{length}-0".encode(), "the first read")
    for child in children:
        child.go()
    wait(lambda: _is_done(client, group, length), "the group to be done")
    took = time.perf_counter() - began
    seen = sum(child.result() for child in children)
    client.xgroup_destroy(TOPIC, group)
    if seen != (wanted := expected(0, length)):
        msg = f"expected {wanted} elements at the sinks, got {seen}"
        raise RuntimeError(msg)
    return took


def _is_done(client: Any, group: str, length: int) -> bool:
    info = groups_of(client, TOPIC)[group]
    return info["last-delivered-id"] == f"{length}-0".encode() and not info["pending"]


def _with_work(fields: dict[str, Any], work: float) -> dict[str, Any]:
    end = time.perf_counter() + work
    while time.perf_counter() < end:
        pass
    return fields


def push(url: str, topic: str, count: int, at_once: int) -> float:
    """Return the seconds of `push_many` with `at_once` values per call, including encoding."""
    reservoir = Reservoir.from_url(url)
    values = [{"value": value(n)} for n in range(count)]
    began = time.perf_counter()
    for start in range(0, count, at_once):
        reservoir.push_many(topic, values[start : start + at_once])
    took = time.perf_counter() - began
    reservoir.client.delete(topic)
    return took


def push_raw(url: str, topic: str, count: int, at_once: int) -> float:
    """Return the seconds of as many XADD in pipelines of redis-py, with bytes that are already encoded."""
    client = connected(url)
    encoded = Reservoir(client).encode({"value": value(n)} for n in range(count))
    began = time.perf_counter()
    for start in range(0, count, at_once):
        with client.pipeline(transaction=False) as pipe:
            for fields in encoded[start : start + at_once]:
                pipe.xadd(topic, fields)
            pipe.execute()
    took = time.perf_counter() - began
    client.delete(topic)
    return took


def cost(*, url: str, topic: str, group: str, first: int, count: int, nodes: int) -> float:
    """Return the seconds for `count` entries from the `first` on through `nodes` maps; later entries stay unread."""
    client = connected(url)
    client.xgroup_create(topic, group, f"{first}-0")
    seen = 0

    def sink(_: Any) -> None:
        nonlocal seen
        seen += 1

    source: Any = from_redis(topic, group=group, url=url)
    stream = source
    for _ in range(nodes):
        stream = stream.map(_same)
    kept = stream.sink(sink)
    began = time.perf_counter()
    source.start()
    while seen < count and time.perf_counter() - began < 60:  # noqa: PLR2004
        time.sleep(0.001)
    took = time.perf_counter() - began
    source.stop()
    source.join(20)
    client.xgroup_destroy(topic, group)
    del kept
    return took


def _same(fields: dict[str, Any]) -> dict[str, Any]:
    return fields
