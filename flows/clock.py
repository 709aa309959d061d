"""Two clocks and a counter: minimal inlets and outlets."""

import time
from datetime import datetime

from streamz import Stream

from flows import inlet, outlet
from flows.topics import MARKET, MARKET_KEEP
from tasks.reservoir.entry import Entry

__all__ = ["seconds", "slow_seconds", "ticking"]


@inlet(topic=MARKET, every="1s", keep=MARKET_KEEP)
def seconds() -> dict[str, int]:
    """Push the current second, every second."""
    return {"seconds": datetime.now().astimezone().second}


@inlet(topic=MARKET, every="1s", threads=10, keep=MARKET_KEEP)
def slow_seconds(block: float = 6.0) -> dict[str, int]:
    """Push the second at which a slow pump call began; a call begins every second, although each takes six.

    Args:
        block: Seconds for which each call blocks its thread.
    """
    began = datetime.now().astimezone().second
    time.sleep(block)
    return {"slow_seconds": began}


@outlet(topics=MARKET, group="ticking")
def ticking(source: Stream) -> Stream:
    """Count entries that are not quotes, by kind. Each run starts at zero."""
    return source.filter(is_not_quotes).accumulate(counted, start={})


def is_not_quotes(entry: Entry) -> bool:
    """Return whether an entry holds no quotes."""
    return "quotes" not in entry


def counted(counts: dict[str, int], entry: Entry) -> dict[str, int]:
    """Return the counts with the entry's kind, the names of its fields, counted once more.

    >>> counted({"seconds": 1}, Entry({"seconds": 5}, topic="market", id="1-0"))
    {'seconds': 2}
    """
    kind = "+".join(sorted(entry))
    return {**counts, kind: counts.get(kind, 0) + 1}
