"""Times of one DataFrame of 5,000 x 32: each step, the whole way, and JSON and Parquet for comparison."""

import io
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pandas as pd

from benchmarks.work import connected, wait
from tasks import Reservoir, codec
from tasks.codec.arrow_ipc import open_stream
from tasks.codec.frames import weigh_stream
from tasks.codec.limits import DEFAULT_LIMITS, Budget
from tasks.feeds.exchange import Exchange
from tasks.nodes.from_redis import from_redis

__all__ = ["measure", "quotes"]

_FIELD = b"quotes"


def quotes(rows: int = 5_000) -> pd.DataFrame:
    """Return the quotes of the simulated exchange."""
    return Exchange(codes=rows).snapshot(1_764_000_000.0)


def measure(url: str, topic: str, repeats: int, rows: int = 5_000) -> dict[str, float]:
    """Return the median milliseconds of each step, of the whole way, and of encoding and decoding as JSON and Parquet."""
    frame, client = quotes(rows), connected(url)
    data = codec.encode_fields({"quotes": frame})[_FIELD]
    client.xgroup_create(topic, "parts", "0", mkstream=True)

    def read() -> None:
        [[_, [[id_, _]]]] = client.xreadgroup("parts", "one", {topic: ">"}, count=1)
        client.xack(topic, "parts", id_)

    def check() -> None:
        weigh_stream(data, Budget(DEFAULT_LIMITS))
        open_stream(data)

    parts = {
        "encode": lambda: codec.encode_fields({"quotes": frame}),
        "push": lambda: client.xadd(topic, {_FIELD: data}),
        "read": read,
        "check": check,
        "check and decode": lambda: codec.decode_fields({_FIELD: data}),
        "JSON": lambda: pd.read_json(io.StringIO(frame.to_json(orient="split")), orient="split"),
        "Parquet": lambda: pd.read_parquet(io.BytesIO(frame.to_parquet())),
    }
    found: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repeats):  # in turn, so that other load affects all of them alike
        for name, part in parts.items():
            found[name].append(_timed(part))
    figures = {name: median(times) for name, times in found.items()}
    client.delete(topic)
    figures["whole"] = _whole(url, topic, repeats, frame)
    figures["bytes"] = len(data)
    client.delete(topic)
    return figures


def _whole(url: str, topic: str, repeats: int, frame: pd.DataFrame) -> float:
    """Return the milliseconds from the push to the sink, as two parts: the inlet's and the outlet's."""
    reservoir = Reservoir.from_url(url)
    seen: list[pd.DataFrame] = []
    source: Any = from_redis(topic, group="whole", url=url)
    kept = source.pluck("quotes").sink(seen.append)
    source.start()
    times = []
    for n in range(repeats):
        began = time.perf_counter()
        reservoir.push(topic, {"quotes": frame})
        while len(seen) <= n and time.perf_counter() - began < 10:  # noqa: PLR2004
            time.sleep(0.0001)
        times.append((time.perf_counter() - began) * 1000)
    wait(lambda: len(seen) == repeats, "the last frame")
    source.stop()
    source.join(10)
    del kept
    return median(times)


def _timed(part: Callable[[], object]) -> float:
    began = time.perf_counter()
    part()
    return (time.perf_counter() - began) * 1000
