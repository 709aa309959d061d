"""Outlets that are deployed like the shipped ones, for tests of outages, restarts and cut networks."""

import os
import time
from typing import Any

from streamz import Stream

from flows import outlet

__all__ = ["counting", "passing"]


@outlet(topics="numbers", group="passing", into="results")
def passing(source: Stream) -> Stream:
    """Pass every number on."""
    return source.map(lambda entry: {"n": entry["n"]})


def _count(count: int, entry: Any) -> tuple[int, dict[str, Any]]:
    return count + 1, {"key": entry["key"], "n": entry["n"], "count": count + 1, "by": os.getpid()}


@outlet(topics="shared", group="counting", into="counts", into_keep=1_000_000)
def counting(source: Stream, work_ms: int = 0) -> Stream:
    """Count the entries of each key; each result names the process that made it."""

    def work(entry: Any) -> Any:
        time.sleep(work_ms / 1000)
        return entry

    return source.map(work).keyed_state(_count, key=lambda entry: entry["key"], start=0, returns_state=True)
