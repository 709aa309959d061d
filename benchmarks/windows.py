"""Windows of a minute and key over small entries, beside Bytewax, and bars of frames, beside pandas by hand."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from streamz import Stream

from benchmarks.work import READ, TOPIC, connected, wait
from tasks.codec.fields import decode_fields
from tasks.nodes import time_window  # noqa: F401 - registers Stream.time_window
from tasks.nodes.from_redis import from_redis
from tasks.pipeline.guard import secure

__all__ = ["BARS", "CANDIDATES", "bars", "measure"]

Candidate = Callable[[str, str, int], AbstractContextManager[int]]
"""Makes bars of the entries of the topic, and returns how many; shuts down at the exit."""

MINUTE = 60_000
KEYS = 5_000
BARS: dict[str, Any] = {
    "open": ("price", "first"),
    "high": ("price", "max"),
    "low": ("price", "min"),
    "close": ("price", "last"),
    "volume": ("volume", "sum"),
}


def measure(name: str, url: str, group: str, count: int) -> float:
    """Return the seconds that a candidate takes for bars of the `count` entries of the topic, one for each ms, and 5,000 keys."""
    client = connected(url)
    client.xgroup_create(TOPIC, group, "0")
    run = CANDIDATES[name]()
    began = time.perf_counter()
    with run(url, group, count) as bars:
        took = time.perf_counter() - began
    client.xgroup_destroy(TOPIC, group)
    # The n-th entry has the time n + 1: the first window has one less.
    wanted = sum(min(KEYS, end - begin) for begin, end in _windows(count))
    if bars != wanted:
        msg = f"{name}: expected {wanted} bars, got {bars}"
        raise RuntimeError(msg)
    return took


def _windows(count: int) -> Iterator[tuple[int, int]]:
    """Yield the first time of each window, and the time after its last."""
    for start in range(0, count + 1, MINUTE):
        yield max(1, start), min(start + MINUTE, count + 1)


def bytewax_fold() -> Candidate:
    """Bytewax, with a source that acknowledges entries before it emits them."""
    import bytewax.operators as op
    import bytewax.operators.windowing as w
    from bytewax.dataflow import Dataflow
    from bytewax.inputs import DynamicSource, StatelessSourcePartition
    from bytewax.outputs import DynamicSink, StatelessSinkPartition
    from bytewax.testing import run_main

    epoch = datetime(1970, 1, 1, tzinfo=UTC)

    @contextmanager
    def run(url: str, group: str, count: int) -> Iterator[int]:
        client, seen = connected(url), []

        class Partition(StatelessSourcePartition):
            def __init__(self) -> None:
                self._left = count

            def next_batch(self) -> list[Any]:
                if not self._left:
                    raise StopIteration
                reply = client.xreadgroup(group, "one", {TOPIC: ">"}, count=min(READ, self._left), block=100)
                entries = reply[0][1]
                self._left -= len(entries)
                client.xack(TOPIC, group, *[id_ for id_, _ in entries])
                return [(int(id_.split(b"-")[0]), decode_fields(fields)["value"]) for id_, fields in entries]

        class Source(DynamicSource):
            def build(self, *_: Any) -> Partition:
                return Partition()

        class SinkPartition(StatelessSinkPartition):
            def write_batch(self, items: list[Any]) -> None:
                seen.extend(items)

        class Sink(DynamicSink):
            def build(self, *_: Any) -> SinkPartition:
                return SinkPartition()

        def fold(bar: list[float], one: Any) -> list[float]:
            price = one[1]["price"]
            if not bar:
                return [price, price, price, price, one[1]["volume"]]
            bar[1], bar[2] = max(bar[1], price), min(bar[2], price)
            bar[3] = price
            bar[4] += one[1]["volume"]
            return bar

        clock = w.EventClock(
            lambda one: epoch + timedelta(milliseconds=one[0]), timedelta(0), to_system_utc=lambda _: None
        )
        windower = w.TumblingWindower(align_to=epoch, length=timedelta(minutes=1))
        flow = Dataflow("bars")
        stream = op.key_on("code", op.input("in", flow, Source()), lambda one: one[1]["code"])
        folded = w.fold_window("bars", stream, clock, windower, list, fold, lambda a, b: [*a, *b])
        op.output("out", folded.down, Sink())
        run_main(flow)
        yield len(seen)

    return run


def sluice() -> Candidate:
    """Sluice: exactly once, with its state in Redis."""

    @contextmanager
    def run(url: str, group: str, count: int) -> Iterator[int]:
        client, seen = connected(url), []
        source: Any = from_redis(TOPIC, group=group, url=url)
        kept = source.pluck("value").time_window("1min", key="code").agg(**BARS).sink(seen.append)
        source.start()
        wanted = sum(min(KEYS, end - begin) for begin, end in _windows(count))
        wait(lambda: len(seen) >= wanted, "all bars")
        wait(lambda: not client.xpending(TOPIC, group)["pending"], "all acknowledgements")
        yield len(seen)
        source.stop()
        source.join(10)
        del kept

    return run


CANDIDATES: dict[str, Callable[[], Candidate]] = {"Sluice": sluice}
if find_spec("bytewax") is not None:
    CANDIDATES["Bytewax"] = bytewax_fold


def bars(frames: int = 12, rows: int = 5_000, repeats: int = 9) -> dict[str, float]:
    """Return milliseconds for one bar of each row: by the node, frame by frame, and by one groupby of all frames at their end.

    Both as they pass, and of CPU time, which other load on the machine changes less. Both aggregate frames that are decoded.
    """
    random = np.random.default_rng(0)
    codes = [f"{n:06}" for n in range(rows)]
    parts = [
        pd.DataFrame({"price": random.random(rows), "volume": random.random(rows)}, index=pd.Index(codes, name="code"))
        for _ in range(frames)
    ]
    next_minute = parts[0].iloc[:1].copy()  # closes the window

    def by_node() -> Any:
        times, seen = iter([*(1000 * n for n in range(frames)), MINUTE]), []
        source: Any = Stream()
        windows = source.time_window("1min", key="code", by=lambda _: next(times))
        kept = windows.agg(**BARS).sink(seen.append)
        secure(source)
        for frame in [*parts, next_minute]:
            source.emit(frame)
        del kept
        return seen[0].drop(columns=["start", "end"])

    def by_hand() -> Any:
        return pd.concat(parts).groupby("code").agg(**BARS)

    pd.testing.assert_frame_equal(by_node().sort_index(), by_hand().sort_index(), check_dtype=False)
    found: dict[str, list[float]] = {}
    for _ in range(repeats):  # in turn, so that other load affects both alike
        for name, work in (("window", by_node), ("by hand", by_hand)):
            began, worked = time.perf_counter(), time.process_time()
            work()
            found.setdefault(name, []).append(1000 * (time.perf_counter() - began))
            found.setdefault(f"{name}, CPU", []).append(1000 * (time.process_time() - worked))
    return {name: median(times) for name, times in found.items()}
