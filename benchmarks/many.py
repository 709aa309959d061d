"""Cost of many small inlets: CPU, memory, rows, missed ticks, start and stop of `sluice up`."""

import math
import os
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil
import redis

from benchmarks.report import Row, table
from deployments.servers.redis_binary import REDIS_SERVER

__all__ = ["Cost", "Ticks", "measure_many"]

_DAY = 86_400
_UNTIL_ALL_ALIVE = 420.0  # seconds from the start until every inlet has pushed, at most
_UNTIL_STOPPED = 180.0  # seconds
_IGNORED = shutil.ignore_patterns(".git", ".venv", ".sluice", "__pycache__", ".hypothesis")
_BLOCK = re.compile(r"\n  - <<: \*inlet\n    name: seconds\n    entrypoint: flows/clock.py:seconds\n(?:    .*\n)*")


@dataclass
class Ticks:
    """The ticks of one inlet in an interval: one per second, each entry with the time of its call in `t`."""

    missing: int = 0
    doubled: int = 0
    late_ms: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Iterable[tuple[int, float]], *, first: int, last: int) -> "Ticks":
        """Count the ticks from `first` to `last`, in seconds since the epoch.

        entries   the time of each append in ms, by Redis' clock, and the time of the call in seconds

        >>> Ticks.of([(1_020, 1.001), (2_500, 2.4), (2_600, 2.5), (9_000, 9.0)], first=1, last=3)
        Ticks(missing=1, doubled=1, late_ms=[20, 500, 600])
        """
        found = [(appended, math.floor(called)) for appended, called in entries if first <= math.floor(called) <= last]
        times = Counter(tick for _, tick in found)
        return cls(
            missing=last - first + 1 - len(times),
            doubled=sum(count - 1 for count in times.values()),
            late_ms=[appended - 1000 * tick for appended, tick in found],
        )


class Cost:
    """CPU time and memory (PSS) of all processes of one state folder."""

    def __init__(self, state: Path) -> None:
        self._state = str(state)
        self._first: dict[tuple[int, float], float] = {}
        self._latest: dict[tuple[int, float], float] = {}
        self._mb: list[float] = []
        self._is_first = True

    def sample(self, *, memory: bool) -> None:
        """Read the CPU time of each process, and with `memory` also the PSS of all."""
        total = 0
        for process in processes(self._state):
            try:
                key, times = (process.pid, process.create_time()), process.cpu_times()
                total += process.memory_full_info().pss if memory else 0
            except psutil.Error:
                continue
            self._latest[key] = times.user + times.system
            if self._is_first:
                self._first[key] = self._latest[key]
        self._is_first = False
        if memory:
            self._mb.append(total / 2**20)

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds since the first sample."""
        return sum(latest - self._first.get(key, 0.0) for key, latest in self._latest.items())

    @property
    def mb(self) -> float:
        """The median of the PSS samples."""
        return statistics.median(self._mb)


def processes(state: str) -> Iterator[psutil.Process]:
    """Yield all processes that have the state folder in their environment or arguments."""
    for process in psutil.process_iter(["environ", "cmdline"]):
        arguments = process.info["cmdline"] or []
        if (process.info["environ"] or {}).get("SLUICE_STATE_DIR") == state or any(state in each for each in arguments):
            yield process


def rows(database: Path) -> int:
    """Return the number of rows in all tables of Prefect's database."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return sum(db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names)  # noqa: S608


def with_inlets(checkout: Path, folder: Path, count: int) -> None:
    """Copy a checkout to a folder, and add `count` inlets that push once per second."""
    shutil.copytree(checkout, folder, ignore=_IGNORED)
    source = ['"""Many small inlets."""\n\nimport time\n\nfrom flows import inlet\n']
    source += [
        f'\n\n@inlet(topic="many{n}", every="1s", keep=3600)\ndef many{n}() -> dict[str, float]:\n'
        f'    """Push the time."""\n    return {{"t": time.time()}}\n'
        for n in range(count)
    ]
    (folder / "flows" / "many.py").write_text("".join(source))
    text = (folder / "prefect.yaml").read_text()
    block = _BLOCK.search(text)
    assert block, "expected flows/clock.py:seconds in prefect.yaml"
    own = re.sub(r', anchor_date: "[^"]*"', "", block[0])  # so that `sluice up` spreads the schedules
    text += "".join(
        own.replace("flows/clock.py:seconds", f"flows/many.py:many{n}").replace("name: seconds", f"name: many{n}")
        for n in range(count)
    )
    (folder / "prefect.yaml").write_text(text)


@contextmanager
def running(checkout: Path, root: Path, state: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `sluice up` of a checkout's own environment in the folder `root`."""
    python = checkout / ".venv" / "bin" / "python"
    if not python.exists():
        python = Path(sys.executable)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SLUICE_"))}
    kept |= {name: os.environ[name] for name in [REDIS_SERVER] if name in os.environ}
    command = [str(python), "-m", "deployments", "up", "--port", str(port)]
    with (state.parent / "up.log").open("wb") as log:
        up = subprocess.Popen(  # noqa: S603 - the checkout's own environment
            command,
            cwd=root,
            env=kept | {"SLUICE_STATE_DIR": str(state), "PWD": str(root), "PYTHONPATH": str(root)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield up
    finally:
        up.kill()
        up.wait()
        for left in processes(str(state)):
            left.kill()


def first_entries(client: redis.Redis, topics: Sequence[str], began: float) -> list[float]:
    """Return the seconds from `began` to each topic's first entry, without topics that got none in time."""
    found: dict[str, float] = {}
    while len(found) < len(topics) and time.time() - began < _UNTIL_ALL_ALIVE:
        for topic in topics:
            try:
                if topic not in found and (first := client.xrange(topic, count=1)):
                    found[topic] = int(first[0][0].split(b"-")[0]) / 1000 - began  # type: ignore[index]
            except redis.RedisError:  # the inlet is still starting
                break
        time.sleep(0.5)
    return sorted(found.values())


def ticks_of(client: redis.Redis, topic: str, first: int, last: int) -> Ticks:
    """Return the missing, doubled and late ticks of an inlet."""
    raw = client.xrange(topic, min=f"{first * 1000}-0", max=f"{(last + 60) * 1000}-0")
    entries = [(int(id_.split(b"-")[0]), msgspec.json.decode(fields[b"t"])) for id_, fields in raw]  # type: ignore[union-attr]
    return Ticks.of(entries, first=first, last=last)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else math.nan


def measure_many(checkout: Path, count: int, minutes: float) -> str:
    """Run a checkout with `count` more inlets, and return the figures as a Markdown table."""
    topics = [f"many{n}" for n in range(count)]
    with tempfile.TemporaryDirectory() as name:
        root, state = Path(name) / "project", Path(name) / "state"
        with_inlets(checkout, root, count)
        began = time.time()
        with running(checkout, root, state) as up:
            client = redis.Redis(unix_socket_path=str(state / "redis" / "redis.sock"), protocol=2)
            firsts = first_entries(client, topics, began)
            time.sleep(30)  # all runs have started
            database, cost = state / "prefect" / "prefect.db", Cost(state)
            before, first, load = rows(database), int(time.time()) + 1, os.getloadavg()[0]
            start = time.monotonic()
            while (spent := time.monotonic() - start) < 60 * minutes:
                cost.sample(memory=int(spent) % 20 == 0)
                time.sleep(1)
            seconds, last = time.monotonic() - start, int(time.time()) - 5
            grown = rows(database) - before
            of_each = [ticks_of(client, topic, first, last) for topic in topics]
            load = max(load, os.getloadavg()[0])
            stop = time.monotonic()
            up.send_signal(signal.SIGINT)
            up.wait(_UNTIL_STOPPED)
            stopped, left = time.monotonic() - stop, len(list(processes(str(state))))
        log = (Path(name) / "up.log").read_text(errors="replace")
    late = [ms for each in of_each for ms in each.late_ms]
    dead = [each for each in of_each if not each.late_ms]
    unended = re.search(r"(\d+) runs? did not end in time", log)
    lines: list[Row] = [
        (f"inlets alive, of {count}", f"{count - len(dead)}", ""),
        (
            "first entry after the start: first, median, last",
            f"{firsts[0]:.0f}, {statistics.median(firsts):.0f}, {firsts[-1]:.0f} s" if firsts else "none",
            "",
        ),
        ("ticks missing, doubled", f"{sum(e.missing for e in of_each):,}, {sum(e.doubled for e in of_each):,}", f"of {count * (last - first + 1):,}"),
        ("entry after its tick: p50, p99, worst", f"{percentile(late, 0.5):.0f}, {percentile(late, 0.99):.0f}, {max(late, default=math.nan):.0f} ms", ""),
        ("CPU of all processes", f"{100 * cost.cpu_seconds / seconds:.0f} % of a core", f"over {seconds:.0f} s"),
        ("memory of all processes (PSS)", f"{cost.mb:,.0f} MB", ""),
        ("rows in Prefect's database a day and inlet", f"{grown / (count + 4) / seconds * _DAY:,.0f}", "with those of the outlets"),
        ("Ctrl-C until the command had ended", f"{stopped:.1f} s", f"{unended[1] if unended else 'no'} runs did not end in time; {left} processes left"),
    ]  # fmt: skip
    title = f"{count} inlets of one push a second beside what ships, load up to {load:.0f}"
    return table(lines, (title, "", ""))
