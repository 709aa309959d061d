"""The work that every candidate does: filter -> map -> filter -> sink, on entries of one small JSON value each."""

import functools
import time
from collections.abc import Callable
from typing import Any

import redis

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
# Entries a read: what our source reads by default, and so everybody.
READ = 256
# Seconds after which a candidate that is not done counts as failed.
ALLOWANCE = 60.0

# KEYS: the topic. ARGV: the first number, how many. As `value` says, in JSON.
_FILL = """
for n = ARGV[1], ARGV[1] + ARGV[2] - 1 do
  redis.call('XADD', KEYS[1], (n + 1) .. '-0', 'value', string.format(
    '{"n":%d,"code":"sh%d","price":%.3f,"volume":%d}', n, 600000 + n % 5000, (n % 997) / 8, n % 100))
end
"""


def connected(url: str) -> Any:
    """Return a client as redis-py makes it, but for the protocol that all here speak."""
    return redis.Redis.from_url(url, protocol=2)


def value(n: int) -> Fields:
    """Return the value of the n-th entry: about 55 bytes of JSON."""
    return {"n": n, "code": f"sh{600_000 + n % 5_000}", "price": n % 997 / 8, "volume": n % 100}


def fill(client: Any, count: int, topic: str = TOPIC) -> None:
    """Append `count` entries, the n-th with the id `<n + 1>-0`; on the server itself, which is quickest."""
    script = client.register_script(_FILL)
    for first in range(0, count, 10_000):
        script(keys=[topic], args=[first, min(10_000, count - first)])


def is_trade(fields: Fields) -> bool:
    """The first filter: nine entries of ten pass."""
    return fields["value"]["n"] % 10 != 9  # noqa: PLR2004


def enriched(fields: Fields) -> Fields:
    """The map."""
    inner = fields["value"]
    return {"code": inner["code"], "amount": inner["price"] * inner["volume"]}


def is_large(fields: Fields) -> bool:
    """The second filter: most entries pass."""
    return fields["amount"] > 100.0  # noqa: PLR2004


@functools.cache
def expected(first: int, count: int) -> int:
    """Return how many of `count` entries from the `first` on reach the sink."""
    numbers = range(first, first + count)
    return sum(is_trade(one) and is_large(enriched(one)) for one in ({"value": value(n)} for n in numbers))


def wait(condition: Callable[[], object], what: str) -> None:
    """Return once `condition` is true; raise if that takes longer than the allowance."""
    end = time.monotonic() + ALLOWANCE
    while not condition():
        if time.monotonic() > end:
            msg = f"waited {ALLOWANCE:g} s for {what}"
            raise TimeoutError(msg)
        time.sleep(0.002)
