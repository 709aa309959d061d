"""The work that every candidate does: filter -> map -> filter -> sink, on entries of one small JSON value each."""

import functools
import time
from collections.abc import Callable
from typing import Any

import redis

from tasks.group.read_size import MAX_ENTRIES

__all__ = [
    "ALLOWANCE",
    "READ",
    "TOPIC",
    "connected",
    "enriched",
    "expected",
    "fill",
    "is_large",
    "is_trade",
    "value",
    "wait",
]

Fields = dict[str, Any]

TOPIC = "bench"
# Entries per read, for all candidates: what `from_redis` reads at most.
READ = MAX_ENTRIES
# Seconds after which an unfinished candidate has failed.
ALLOWANCE = 60.0

# KEYS: the topic. ARGV: the first number and the count. Appends the JSON of `value`.
_FILL = """
for n = ARGV[1], ARGV[1] + ARGV[2] - 1 do
  redis.call('XADD', KEYS[1], (n + 1) .. '-0', 'value', string.format(
    '{"n":%d,"code":"sh%d","price":%.3f,"volume":%d}', n, 600000 + n % 5000, (n % 997) / 8, n % 100))
end
"""


def connected(url: str) -> Any:
    """Return a plain redis-py client with the protocol that all candidates use."""
    return redis.Redis.from_url(url, protocol=2)


def value(n: int) -> Fields:
    """Return the value of the n-th entry: about 55 bytes of JSON."""
    return {"n": n, "code": f"sh{600_000 + n % 5_000}", "price": n % 997 / 8, "volume": n % 100}


def fill(client: Any, count: int, topic: str = TOPIC) -> None:
    """Append `count` entries, the n-th with the id `<n + 1>-0`, by a script, which is fastest."""
    script = client.register_script(_FILL)
    for first in range(0, count, 10_000):
        script(keys=[topic], args=[first, min(10_000, count - first)])


def is_trade(fields: Fields) -> bool:
    """Filter: nine entries of ten pass."""
    return fields["value"]["n"] % 10 != 9  # noqa: PLR2004


def enriched(fields: Fields) -> Fields:
    """Map: add the value of the trade."""
    inner = fields["value"]
    return {"code": inner["code"], "amount": inner["price"] * inner["volume"]}


def is_large(fields: Fields) -> bool:
    """Filter on the computed value: most entries pass."""
    return fields["amount"] > 100.0  # noqa: PLR2004


@functools.cache
def expected(first: int, count: int) -> int:
    """Return how many of `count` entries from the `first` on reach the sink."""
    numbers = range(first, first + count)
    return sum(is_trade(one) and is_large(enriched(one)) for one in ({"value": value(n)} for n in numbers))


def wait(condition: Callable[[], object], what: str) -> None:
    """Return once `condition` is true; raise an error after the maximum wait."""
    end = time.monotonic() + ALLOWANCE
    while not condition():
        if time.monotonic() > end:
            msg = f"waited {ALLOWANCE:g} s for {what}"
            raise TimeoutError(msg)
        time.sleep(0.002)
