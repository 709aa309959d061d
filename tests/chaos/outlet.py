"""Outlets as real processes, for tests that kill, stop and continue them.

    python -m tests.chaos.outlet URL SHAPE LOG

Everything is imported once and an outlet is forked for each line of the standard input, before any thread or
connection exists, because the imports take longer than a run. Prints the process id of each; kills all when the input ends.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from streamz import Stream

import tasks.group.lease_scripts
import tasks.nodes.from_redis  # adds from_redis to Stream
import tasks.nodes.join_asof
import tasks.nodes.join_interval
import tasks.nodes.session_window
import tasks.nodes.time_window
import tasks.nodes.to_redis
from tasks.errors import LeaseLostError
from tests.chaos.forking import fork_for_each_line

LEASE = 0.5


async def _same(n: int) -> int:
    return n


def _branches(numbers: Stream, see: Callable[[Any], None]) -> None:
    numbers.filter(lambda n: n % 2 == 0).buffer(20).sink(see)
    numbers.filter(lambda n: n % 2 == 1).sink(see)


def _sum(total: int, n: int) -> tuple[int, tuple[int, int]]:
    return total + n, (n, total + n)


def _count(count: int, of: tuple[int, int]) -> tuple[int, dict[str, int]]:
    return count + 1, {"n": of[0], "sum": of[1], "count": count + 1}


def _remembering(numbers: Stream, _: Callable[[Any], None]) -> None:
    sums = numbers.accumulate(_sum, start=0, returns_state=True)
    evens = sums.unique(key=lambda of: of[0] // 2)
    evens.keyed_state(_count, key=lambda of: of[0] % 7, start=0, returns_state=True).to_redis("results", keep=None)


def _windowed(numbers: Stream, _: Callable[[Any], None]) -> None:
    """Windows, sessions and joins of numbers, at the times of their entries, and windows of windows."""
    given: Any = {"close_after": "100ms", "late": "drop"}
    windows: Any = numbers.time_window("20ms", key=lambda n: n % 3, **given)
    counts = windows.agg(n=(None, "count"), sum=(None, "sum"))
    later = counts.time_window("60ms", stream_name="of windows", **given).agg(n=("n", "sum"))
    sessions: Any = numbers.session_window("5ms", **given)
    even, odd = numbers.filter(lambda n: n % 2 == 0).map(lambda n: [n]), numbers.filter(lambda n: n % 2)
    asof: Any = even.join_asof(odd, **given)
    near: Any = even.join_interval(odd, before="3ms", after="3ms", **given)
    results = {
        "windows": counts,
        "later": later,
        "sessions": sessions.agg(n=(None, "count")),
        "asof": asof,
        "near": near,
    }
    for name, stream in results.items():
        stream.map(lambda x, name=name: {"of": name, "made": _shown(x)}).to_redis("results", keep=None)


def _shown(made: Any) -> Any:
    return {name: str(value) for name, value in made.items()} if isinstance(made, dict) else list(made)


# The pipeline from the numbers to the sink that notes them.
SHAPES: dict[str, Callable[[Stream, Callable[[Any], None]], Any]] = {
    "plain": lambda numbers, see: numbers.sink(see),
    "windows": lambda numbers, see: numbers.sliding_window(3, return_partial=False).sink(see),
    "results": lambda numbers, _: numbers.map(lambda n: {"n": n}).to_redis("results", keep=None),
    "fenced": lambda numbers, _: numbers.map(lambda n: {"n": n}).to_redis("results", keep=None),
    "state": _remembering,
    "windowed": _windowed,
    "buffer": lambda numbers, see: numbers.buffer(50).map(lambda n: n).sink(see),
    "rate_limit": lambda numbers, see: numbers.rate_limit(0.001).sink(see),
    "map_async": lambda numbers, see: numbers.map_async(_same, parallelism=4).sink(see),
    "zip": lambda numbers, see: numbers.zip(numbers.map(lambda n: -n)).starmap(lambda n, _: n).sink(see),
    "branches": _branches,
}


def numbers_in(client: Any, topic: str) -> dict[str, int]:
    """Return the number in each entry of a topic by the entry's id, oldest first."""
    return {id_.decode(): int(fields[b"n"]) for id_, fields in client.xrange(topic)}


class Outlets:
    """Outlets of one pipeline and group: each a process, started by `start` and alive until killed.

    seen    a line of JSON for each element of its sink
    lost    the consumers that were taken for dead, a line each
    """

    def __init__(self, url: str, shape: str, folder: Path, *, module: str = "tests.chaos.outlet") -> None:
        self.seen, self.lost = folder / "seen", folder / "seen.lost"
        self.seen.touch()
        self.lost.touch()
        self._command = [sys.executable, "-m", module, url, shape, str(self.seen)]

    def start(self) -> int:
        """Start an outlet and return its process id."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:
            assert process.stdin
            process.stdin.close()


def live(url: str, shape: str, log: str) -> None:
    """Run the pipeline until killed, or taken for dead."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def see(element: Any) -> None:
        os.write(file, json.dumps(element).encode() + b"\n")

    if shape == "fenced":
        # As if every pause outlasted the records: late appends must be refused, not found in a record.
        tasks.group.lease_scripts.STRAGGLERS_MS = 1
    # On a busy machine, five outlets in a row may be killed before they acknowledge anything: no entry is to blame for that.
    source = Stream.from_redis("numbers", group="lab", url=url, lease=LEASE, max_deliveries=1000)
    SHAPES[shape](source.pluck("n"), see)
    source.start()
    try:
        source.join()
    except LeaseLostError:
        with Path(f"{log}.lost").open("a") as lost:
            lost.write(f"{os.getpid()}\n")


def main(url: str, shape: str, log: str) -> None:
    """Start an outlet for each line of the standard input."""
    fork_for_each_line(lambda: live(url, shape, log))


if __name__ == "__main__":
    main(*sys.argv[1:])
