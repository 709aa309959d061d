"""Entries per second of runs that share a partitioned topic, beside one run on a plain topic, with the same pipeline.

The entries are small ones, or frames that are split by rows. The pipelines have a window and a sum for each key, whose state is
kept. The runs have joined, and own their partitions, before the entries come: one script appends all of them.
"""

import asyncio
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import redis
from tornado.ioloop import IOLoop

from benchmarks.children import Child, ready
from benchmarks.windows import BARS
from benchmarks.work import TOPIC, connected, wait
from tasks.nodes import time_window  # noqa: F401 - registers Stream.time_window
from tasks.nodes.from_redis import from_redis
from tasks.nodes.replica import Replica
from tasks.reservoir import Reservoir
from tasks.reservoir.keys import members_key
from tasks.reservoir.topic_names import partition_topic

__all__ = ["PARTITIONS", "SPLIT", "compare", "compare_frames", "push", "run"]

KEYS, PARTITIONS = 100, 4
SPLIT = 8  # partitions of frames
_SETTLE = 3.0  # seconds after all runs have joined
_FILL = """
for i = 0, ARGV[1] - 1 do
  local key = i % tonumber(ARGV[2])
  redis.call('XADD', KEYS[key % #KEYS + 1], '*', 'key', key, 'n', i)
end
"""
_PREPARED = "prepared"  # the topic with the frames, which no run reads
# KEYS: streams, and as many others that get the same entries.
_COPY = """
for i = 1, #KEYS / 2 do
  for _, entry in ipairs(redis.call('XRANGE', KEYS[i], '-', '+')) do
    redis.call('XADD', KEYS[#KEYS / 2 + i], '*', unpack(entry[2]))
  end
end
"""


def _streams(partitions: int, topic: str = TOPIC) -> list[str]:
    return [partition_topic(topic, n) for n in range(partitions)] if partitions else [topic]


def _is_done(client: Any, group: str, partitions: int) -> bool:
    for stream in _streams(partitions):
        [info] = [each for each in client.xinfo_groups(stream) if each["name"].decode() == group]
        if info["pending"] or info["last-delivered-id"] != client.xinfo_stream(stream)["last-generated-id"]:
            return False
    return True


def _add(total: int, window: tuple[Any, ...]) -> tuple[int, int]:
    return total + window[-1]["n"], total


def _of_entries(source: Any, work: float, seen: list[Any]) -> Any:
    """A window of ten entries and a sum for each key, after `work` seconds of computing."""

    def worked(entry: Any) -> Any:
        end = time.perf_counter() + work
        while time.perf_counter() < end:
            pass
        return entry

    windows = source.map(worked).sliding_window(10, key=lambda entry: entry["key"])
    sums = windows.keyed_state(_add, key=lambda window: window[-1]["key"], start=0, returns_state=True)
    return sums.sink(seen.append)


def _of_frames(source: Any, work: float, seen: list[Any]) -> Any:
    """Bars of each minute and code, and the total volume of each code so far."""
    bars = source.pluck("quotes").time_window("1min", key="code", by="time", close_after="1h").agg(**BARS)
    return bars.accumulate(_total, start=None, returns_state=True).sink(seen.append)


def _total(totals: Any, bars: pd.DataFrame) -> tuple[Any, pd.DataFrame]:
    volume = bars["volume"]
    totals = volume if totals is None else totals.add(volume, fill_value=0)
    return totals, bars.assign(total=totals.reindex(bars.index))


_PIPELINES = {"entries": _of_entries, "frames": _of_frames}
_FOUND: dict[str, Callable[[list[Any]], Any]] = {"entries": len, "frames": lambda seen: _checksums(pd.concat(seen))}


def run(url: str, group: str, partitions: int, of: str, work: float = 0.0) -> Any:
    """Process a share of the partitions, or with `partitions` = 0 a plain topic, until the parent lets it end.

    of        the pipeline: 'entries' or 'frames'
    returns   the number of results, or of frames a checksum for each code
    """
    seen: list[Any] = []
    client = connected(url)

    async def main() -> None:
        kept: list[Any] = []

        def build(n: int | None) -> from_redis:
            topic = TOPIC if n is None else partition_topic(TOPIC, n)
            source = from_redis(topic, group=group, url=url, partition=n, loop=IOLoop.current(), asynchronous=True)
            kept.append(_PIPELINES[of](source, work, seen))
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
    return _FOUND[of](seen)


def compare(url: str, group: str, *, runs: int, partitions: int, count: int, work: float) -> float:
    """Return the seconds that `runs` runs take for `count` small entries."""
    client: redis.Redis = connected(url)
    streams = _streams(partitions)

    def append() -> None:
        client.eval(_FILL, len(streams), *streams, count, KEYS)

    took, found = _measured(url, group, runs, partitions, append, of="entries", work=work)
    if sum(found) != count:
        msg = f"expected {count} results, got {sum(found)}"
        raise RuntimeError(msg)
    return took


def compare_frames(url: str, group: str, *, runs: int, partitions: int, count: int, rows: int) -> float:
    """Return the seconds that `runs` runs take for `count` frames of `rows` rows, which are split by code if there are partitions.

    The results of each code are those of pandas, in order.
    """
    client: redis.Redis = connected(url)
    reservoir, snapshots = Reservoir(client), _snapshots(count, rows)
    for each in snapshots:
        reservoir.push(_PREPARED, {"quotes": each}, keep=None, **_options(partitions))
    streams = [*_streams(partitions, _PREPARED), *_streams(partitions)]

    def append() -> None:
        client.eval(_COPY, len(streams), *streams)

    took, found = _measured(url, group, runs, partitions, append, of="frames")
    if not all(found) or sum(map(len, found)) != rows:
        msg = f"expected results of {rows} codes, each of one run, got {[len(of_codes) for of_codes in found]}"
        raise RuntimeError(msg)
    if {code: each for of_codes in found for code, each in of_codes.items()} != _expected(snapshots):
        msg = f"expected the bars and totals that pandas computes, got others from {runs} runs"
        raise RuntimeError(msg)
    return took


def _measured(
    url: str, group: str, runs: int, partitions: int, append: Callable[[], None], **options: Any
) -> tuple[float, list[Any]]:
    """Return the seconds that `runs` runs take for what `append` appends, and what each has found."""
    client: redis.Redis = connected(url)
    children = [
        Child("partitions:run", url=url, group=group, partitions=partitions, **options).until_ready()
        for _ in range(runs)
    ]
    if partitions:
        wait(lambda: client.zcard(members_key(group)) == runs, "the runs to join")
    time.sleep(_SETTLE)
    append()
    began = time.perf_counter()
    wait(lambda: _is_done(client, group, partitions), "the group to be done")
    took = time.perf_counter() - began
    for child in children:
        child.go()
    found = [child.result() for child in children]
    client.flushall()
    return took, found


def _snapshots(count: int, rows: int) -> list[pd.DataFrame]:
    """Return snapshots of `rows` codes, one every five seconds, and one a minute later, which closes the last window."""
    random, begin = np.random.default_rng(1), pd.Timestamp("2026-01-05 01:30", tz="UTC")
    seconds = [*range(0, 5 * count - 5, 5), 5 * count + 60]
    codes = pd.Series([f"{600_000 + n}" for n in range(rows)])
    return [
        pd.DataFrame({
            "code": codes,
            "time": pd.DatetimeIndex([begin + pd.Timedelta(seconds=each)]).repeat(rows),
            "price": random.random(rows),
            "volume": random.integers(1, 1_000, rows),
            **{f"c{n}": column for n, column in enumerate(random.random((6, rows)))},
        })
        for each in seconds
    ]  # fmt: skip


def _expected(snapshots: list[pd.DataFrame]) -> dict[str, int]:
    """Return a checksum of each code's bars and totals, by one groupby over all snapshots but the last."""
    quotes = pd.concat(snapshots[:-1])
    bars = quotes.groupby(["code", quotes["time"].dt.floor("min")]).agg(**BARS).reset_index("time")
    return _checksums(bars.assign(total=bars.groupby("code")["volume"].cumsum()))


def _checksums(results: pd.DataFrame) -> dict[str, int]:
    """Return a number for each code that depends on its results and their order."""
    values = results[[*BARS, "total"]].astype({"volume": "int64", "total": "int64"})
    hashes = pd.util.hash_pandas_object(values, index=False)
    places = results.groupby("code").cumcount() + 1
    numbers = (hashes % 2**32 * places.astype("uint64")).groupby("code").sum()
    return {str(code): int(number) for code, number in numbers.items()}


def _options(partitions: int) -> dict[str, Any]:
    return {"partitions": partitions, "key": "code"} if partitions else {}


def push(url: str, partitions: int, count: int, rows: int) -> float:
    """Return the seconds that one push of a frame of `rows` rows takes, split by rows if there are `partitions`; the median of `count`."""
    numbers = np.random.default_rng(1).random((8, rows))
    frame = pd.DataFrame(
        {"code": [f"{600_000 + n}" for n in range(rows)], **{f"c{n}": each for n, each in enumerate(numbers)}}
    )
    reservoir = Reservoir(connected(url))
    took = []
    for _ in range(count):
        began = time.perf_counter()
        reservoir.push(TOPIC, {"quotes": frame}, keep=5, **_options(partitions))
        took.append(time.perf_counter() - began)
    connected(url).flushall()
    return median(took)
