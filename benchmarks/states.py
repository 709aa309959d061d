"""Encoding and decoding of pipelines' states, by the codec and by pickle: microseconds per state."""

import pickle
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median
from typing import Any

import numpy as np

from tasks.codec import decode_state, encode_state

__all__ = ["STATES", "measure"]

STATES: dict[str, Callable[[int], Any]] = {
    "a float": float,
    "a str": lambda n: f"sh{n:06}",
    "a tuple of a sum and a count": lambda n: (n * 1.5, n),
    "a dict of a sum and a count": lambda n: {"sum": n * 1.5, "count": n},
    "the last 5 floats": lambda n: deque((n * 1.5, 2.5, 3.5, 4.5, 5.5), 5),
    "a float of numpy": np.float64,
    "a datetime with a zone": lambda n: datetime.fromtimestamp(n, UTC),
    "an array of 1,000 floats": lambda n: np.arange(n, n + 1000.0),
}


def measure(kind: str, count: int, repeats: int) -> dict[str, float]:
    """Return the median microseconds to encode and to decode one of `count` states, over `repeats`."""
    values = [STATES[kind](n) for n in range(count)]
    stored, pickled = [encode_state(value) for value in values], [pickle.dumps(value, 5) for value in values]
    parts: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "encode": (encode_state, values),
        "decode": (decode_state, stored),
        "pickle": (lambda value: pickle.dumps(value, 5), values),
        "unpickle": (pickle.loads, pickled),  # bytes that were pickled above
    }
    found: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repeats):  # in turn, so that other load affects all of them alike
        for name, (work, each) in parts.items():
            began = time.perf_counter()
            for value in each:
                work(value)
            found[name].append((time.perf_counter() - began) / count * 1e6)
    return {name: median(times) for name, times in found.items()}
