"""Entries per second through the same pipeline: Sluice, plain streamz, FastStream, walrus, Bytewax, and redis-py alone.

Each candidate reads a consumer group of its own over one filled topic and acknowledges in its usual way. A
run ends when the sink has every expected entry and nothing is pending any more. Imports are not counted.
"""

import asyncio
import gc
import json
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from benchmarks.work import (
    ALLOWANCE,
    READ,
    TOPIC,
    Fields,
    connected,
    enriched,
    expected,
    is_large,
    is_trade,
    value,
    wait,
)

__all__ = ["CANDIDATES", "SHORT", "fill_own_format", "measure"]

# FastStream is slow, so it gets a topic with fewer entries: it always reads to the end of its topic.
SHORT = "bench-short"
# FastStream reads entries in its own format faster.
OWN_FORMAT = "bench-own"

# Does the work, and may return a function that shuts the candidate down, which is not counted.
Candidate = Callable[[str, str, int], Callable[[], object] | None]


def measure(name: str, url: str, group: str, count: int) -> float:
    """Return the seconds that a candidate takes for the `count` entries of the topic, and delete its group."""
    topic = OWN_FORMAT if name.endswith("own format") else SHORT if name == "FastStream" else TOPIC
    client = connected(url)
    client.xgroup_create(topic, group, "0")
    run = CANDIDATES[name]()
    expected(0, count)  # its imports do not count
    gc.collect()
    gc.freeze()  # as an outlet's run does: collections skip imported objects
    began = time.perf_counter()
    end = run(url, group, count)
    took = time.perf_counter() - began
    gc.unfreeze()  # the calling process may continue after this
    if end:
        end()
    pending = client.xpending(topic, group)["pending"]
    client.xgroup_destroy(topic, group)
    if pending:
        msg = f"{name}: expected every entry to be acknowledged, got {pending} pending"
        raise RuntimeError(msg)
    return took


def _check(seen: int, count: int) -> None:
    if seen != (wanted := expected(0, count)):
        msg = f"expected {wanted} elements at the sink, got {seen}"
        raise RuntimeError(msg)


# --- redis-py, and loops around it ----------------------------------------------------------------------


def _reads(client: Any, group: str, count: int) -> Iterator[list[tuple[bytes, dict[bytes, bytes]]]]:
    left = count
    while left:
        reply = client.xreadgroup(group, "one", {TOPIC: ">"}, count=min(READ, left), block=100)
        entries = reply[0][1]
        left -= len(entries)
        yield entries


def _decoded(fields: dict[bytes, bytes]) -> Fields:
    return {name.decode(): json.loads(data) for name, data in fields.items()}


def raw() -> Candidate:
    """redis-py alone: read and acknowledge batch by batch, without work on the entries."""

    def run(url: str, group: str, count: int) -> None:
        client = connected(url)
        for entries in _reads(client, group, count):
            client.xack(TOPIC, group, *[id_ for id_, _ in entries])

    return run


def by_hand() -> Candidate:
    """redis-py in a loop that does the work, without any handling of failures."""

    def run(url: str, group: str, count: int) -> None:
        client = connected(url)
        seen: list[Fields] = []
        for entries in _reads(client, group, count):
            for _, fields in entries:
                entry = _decoded(fields)
                if is_trade(entry) and is_large(result := enriched(entry)):
                    seen.append(result)
            client.xack(TOPIC, group, *[id_ for id_, _ in entries])
        _check(len(seen), count)

    return run


def walrus_loop() -> Candidate:
    """walrus: its consumer group, read and acknowledged batch by batch."""
    import walrus

    def run(url: str, group: str, count: int) -> None:
        stream = getattr(walrus.Database.from_url(url, protocol=2).consumer_group(group, [TOPIC]), TOPIC)
        seen: list[Fields] = []
        left = count
        while left:
            entries = stream.read(count=min(READ, left), block=100)
            for _, fields in entries:
                entry = _decoded(fields)
                if is_trade(entry) and is_large(result := enriched(entry)):
                    seen.append(result)
            stream.ack(*[id_ for id_, _ in entries])
            left -= len(entries)
        _check(len(seen), count)

    return run


def streamz_alone() -> Candidate:
    """Plain streamz, fed in a loop: an entry is acknowledged when `emit` returns, and any exception ends the run."""
    from streamz import Stream

    def run(url: str, group: str, count: int) -> None:
        client = connected(url)
        seen: list[Fields] = []
        source = Stream()
        kept = source.filter(is_trade).map(enriched).filter(is_large).sink(seen.append)
        for entries in _reads(client, group, count):
            for _, fields in entries:
                source.emit(_decoded(fields))
            client.xack(TOPIC, group, *[id_ for id_, _ in entries])
        _check(len(seen), count)
        del kept

    return run


# --- peers ----------------------------------------------------------------------------------------------


def bytewax_dataflow() -> Candidate:
    """Bytewax, with a source that acknowledges entries before it emits them: Bytewax reports no later moment to a source."""
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow
    from bytewax.inputs import DynamicSource, StatelessSourcePartition
    from bytewax.outputs import DynamicSink, StatelessSinkPartition
    from bytewax.testing import run_main

    def run(url: str, group: str, count: int) -> None:
        client = connected(url)
        seen: list[Fields] = []

        class Partition(StatelessSourcePartition):
            def __init__(self) -> None:
                self._reads = _reads(client, group, count)

            def next_batch(self) -> list[Fields]:
                entries = next(self._reads)  # StopIteration ends the dataflow
                client.xack(TOPIC, group, *[id_ for id_, _ in entries])
                return [_decoded(fields) for _, fields in entries]

        class Source(DynamicSource):
            def build(self, *_: Any) -> Partition:
                return Partition()

        class SinkPartition(StatelessSinkPartition):
            def write_batch(self, items: list[Fields]) -> None:
                seen.extend(items)

        class Sink(DynamicSink):
            def build(self, *_: Any) -> SinkPartition:
                return SinkPartition()

        flow = Dataflow("bench")
        stream = op.input("in", flow, Source())
        stream = op.filter("trades", stream, is_trade)
        stream = op.map("enriched", stream, enriched)
        stream = op.filter("large", stream, is_large)
        op.output("out", stream, Sink())
        run_main(flow)
        _check(len(seen), count)

    return run


def faststream_app(topic: str = SHORT) -> Candidate:
    """FastStream: a subscriber that is called for each entry, which is acknowledged after the call."""
    from faststream.redis import RedisBroker, StreamSub

    def run(url: str, group: str, count: int) -> None:
        seen: list[Fields] = []
        handled = 0

        async def main() -> None:
            done = asyncio.Event()
            broker = RedisBroker(url, logger=None, protocol=2)

            @broker.subscriber(stream=StreamSub(topic, group=group, consumer="one", max_records=READ, last_id=">"))
            async def handle(body: dict[str, Any]) -> None:
                nonlocal handled
                entry = {"value": body if topic == OWN_FORMAT else json.loads(body["value"])}
                if is_trade(entry) and is_large(result := enriched(entry)):
                    seen.append(result)
                handled += 1
                if handled == count:
                    done.set()

            async with broker:
                await broker.start()
                await asyncio.wait_for(done.wait(), ALLOWANCE)
                await broker.stop()

        asyncio.run(main())
        _check(len(seen), count)

    return run


def fill_own_format(url: str, count: int) -> None:
    """Publish `count` entries in FastStream's own format."""
    from faststream.redis import RedisBroker

    async def main() -> None:
        async with RedisBroker(url, logger=None, protocol=2) as broker:
            for n in range(count):
                await broker.publish(value(n), stream=OWN_FORMAT)

    asyncio.run(main())


# --- Sluice ---------------------------------------------------------------------------------------------


def one_at_a_time(source: Any, seen: list[Any]) -> Any:
    return source.filter(is_trade).map(enriched).filter(is_large).sink(seen.append)


def in_lists(source: Any, seen: list[Any]) -> Any:
    trades = source.map(lambda entries: [entry for entry in entries if is_trade(entry)])
    results = trades.map(lambda entries: [enriched(entry) for entry in entries])
    return results.map(lambda results: [result for result in results if is_large(result)]).sink(seen.extend)


def in_frames(source: Any, seen: list[Any]) -> Any:
    import pandas as pd

    frames = source.map(lambda entries: pd.DataFrame([entry["value"] for entry in entries]))
    trades = frames.map(lambda frame: frame[frame["n"] % 10 != 9])  # noqa: PLR2004
    results = trades.map(lambda frame: frame.assign(amount=frame["price"] * frame["volume"]))
    return results.map(lambda frame: frame[frame["amount"] > 100.0]).sink(lambda frame: seen.extend(frame.index))  # noqa: PLR2004


def sluice(build: Callable[[Any, list[Any]], Any] = one_at_a_time, **options: Any) -> Candidate:
    """Sluice with default settings: entries are acknowledged after the work, failures isolated, nodes metered."""
    from streamz import Stream

    import tasks  # noqa: F401 - gives streamz from_redis

    def run(url: str, group: str, count: int) -> Callable[[], object]:
        client = connected(url)
        seen: list[Any] = []
        source = Stream.from_redis(TOPIC, group=group, url=url, **options)
        kept = build(source, seen)
        wanted = expected(0, count)
        source.start()
        wait(lambda: len(seen) == wanted, "all elements")  # frequent requests would slow Redis down
        wait(lambda: _is_acknowledged(client, group), "all entries to be acknowledged")
        _check(len(seen), count)

        def end(_: Any = kept) -> None:
            source.stop()
            source.join(10)

        return end

    return run


def sluice_in_frames() -> Candidate:
    """Sluice with DataFrames. As for the other candidates, imports do not count."""
    import pandas as pd  # noqa: F401

    return sluice(in_frames, batch=4_096)


def _is_acknowledged(client: Any, group: str) -> bool:
    last = client.xinfo_stream(TOPIC)["last-generated-id"]
    [info] = [one for one in client.xinfo_groups(TOPIC) if one["name"].decode() == group]
    return info["last-delivered-id"] == last and not info["pending"]


CANDIDATES: dict[str, Callable[[], Candidate]] = {
    "redis-py, read and ack alone": raw,
    "redis-py, the work in the loop": by_hand,
    "Bytewax": bytewax_dataflow,
    "walrus": walrus_loop,
    "FastStream": faststream_app,
    "FastStream, entries of its own format": lambda: faststream_app(OWN_FORMAT),
    "streamz alone": streamz_alone,
    "Sluice": sluice,
    "Sluice, lists of up to 512": lambda: sluice(in_lists, batch=512),
    "Sluice, DataFrames of up to 4,096": sluice_in_frames,
    "Sluice, nodes not fused": lambda: sluice(fuse=False),
}
if find_spec("bytewax") is None:  # 0.21.1 has no wheels for Python 3.13 and later
    del CANDIDATES["Bytewax"]
