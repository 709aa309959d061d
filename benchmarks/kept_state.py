"""Entries per second of pipelines that remember: with their state kept, without, and Bytewax with its SQLite recovery.

Every candidate adds up a number: over all entries, or for each key. Sluice acknowledges with the state, about once a second under
load. Bytewax snapshots once a second, and its source continues after the last entry of a snapshot.
"""

import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from benchmarks.work import READ, TOPIC, connected, wait
from tasks.nodes.from_redis import from_redis

__all__ = ["KEPT_STATE", "fill_keys", "measure"]

_FILL = "for i = ARGV[1], ARGV[2] - 1 do redis.call('XADD', KEYS[1], '*', 'key', i % ARGV[3], 'n', i) end"
_AT_ONCE = 50_000

Candidate = Callable[[str, str, int], AbstractContextManager[int]]
"""Processes the entries of the topic, and returns how many results reached the sink; shuts down at the exit."""


def fill_keys(url: str, count: int, keys: int) -> None:
    """Fill the topic with `count` entries of a key and a number."""
    client = connected(url)
    for first in range(0, count, _AT_ONCE):
        client.eval(_FILL, 1, TOPIC, first, min(count, first + _AT_ONCE), keys)


def measure(name: str, url: str, count: int) -> float:
    """Return the seconds that a candidate takes for the topic, until its state is stored and all entries are acknowledged."""
    gc.collect()
    gc.freeze()  # as an outlet's run does: collections skip imported objects
    began = time.perf_counter()
    with KEPT_STATE[name](url, f"{time.time_ns()}", count) as seen:
        took = time.perf_counter() - began
    if seen != count:
        msg = f"{name}: expected {count} results, got {seen}"
        raise RuntimeError(msg)
    return took


def _sluice(build: Callable[[Any], Any], *, keep_state: bool) -> Candidate:
    @contextmanager
    def run(url: str, group: str, count: int) -> Iterator[int]:
        client, seen = connected(url), 0

        def sink(_: Any) -> None:
            nonlocal seen
            seen += 1

        source = from_redis(TOPIC, group=group, url=url, keep_state=keep_state)
        kept = build(source).sink(sink)
        source.start()
        wait(lambda: seen >= count and not client.xpending(TOPIC, group)["pending"], "all entries to be acknowledged")
        yield seen
        source.stop()
        source.join(20)
        source.drop_group()
        del kept

    return run


def _total(total: int, entry: Any) -> int:
    return total + entry["n"]


def _of_key(total: int, entry: Any) -> tuple[int, int]:
    return total + entry["n"], total + entry["n"]


def _sum(source: Any) -> Any:
    return source.accumulate(_total, start=0)


def _sums(source: Any) -> Any:
    return source.keyed_state(_of_key, key=lambda entry: entry["key"], start=0, returns_state=True)


def _bytewax(key_of: Callable[[Any], str]) -> Candidate:
    @contextmanager
    def run(url: str, _: str, count: int) -> Iterator[int]:
        import bytewax.operators as op
        from bytewax.dataflow import Dataflow
        from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
        from bytewax.outputs import DynamicSink, StatelessSinkPartition
        from bytewax.recovery import RecoveryConfig, init_db_dir
        from bytewax.testing import run_main

        client, seen = connected(url), 0

        class Partition(StatefulSourcePartition):
            def __init__(self, after: str | None) -> None:
                self._after = after or "0-0"

            def next_batch(self) -> list[Any]:
                entries = client.xrange(TOPIC, f"({self._after}", count=READ)
                if not entries:
                    raise StopIteration
                self._after = entries[-1][0].decode()
                return [{name.decode(): json.loads(data) for name, data in fields.items()} for _, fields in entries]

            def snapshot(self) -> str:
                return self._after

        class Source(FixedPartitionedSource):
            def list_parts(self) -> list[str]:
                return ["all"]

            def build_part(self, _step: str, _part: str, after: str | None) -> Partition:
                return Partition(after)

        class SinkPartition(StatelessSinkPartition):
            def write_batch(self, items: list[Any]) -> None:
                nonlocal seen
                seen += len(items)

        class Sink(DynamicSink):
            def build(self, *_: Any) -> SinkPartition:
                return SinkPartition()

        flow = Dataflow("bench")
        keyed = op.key_on("key", op.input("in", flow, Source()), key_of)
        op.output("out", op.stateful_map("sum", keyed, lambda total, entry: _of_key(total or 0, entry)), Sink())
        with tempfile.TemporaryDirectory() as folder:
            init_db_dir(folder, 1)
            second = timedelta(seconds=1)
            run_main(flow, epoch_interval=second, recovery_config=RecoveryConfig(folder))
            yield seen

    return run


KEPT_STATE: dict[str, Candidate] = {
    "one sum, kept": _sluice(_sum, keep_state=True),
    "one sum, not kept": _sluice(_sum, keep_state=False),
    "Bytewax, one sum": _bytewax(lambda _: "all"),
    "a sum for each key, kept": _sluice(_sums, keep_state=True),
    "a sum for each key, not kept": _sluice(_sums, keep_state=False),
    "Bytewax, a sum for each key": _bytewax(lambda entry: str(entry["key"])),
}
if find_spec("bytewax") is None:  # 0.21.1 has no wheels for Python 3.13 and later
    KEPT_STATE = {name: run for name, run in KEPT_STATE.items() if "Bytewax" not in name}
