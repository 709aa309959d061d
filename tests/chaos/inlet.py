"""Runs of an inlet as real processes that relieve each other; each is forked, which saves the imports."""

import json
import multiprocessing
import random
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

import tasks.reservoir.connection
from tasks.pump.run import PumpRun
from tasks.pump.ticks import Beat
from tasks.reservoir import Reservoir

EVERY = 0.1


def pump_for(
    url: str,
    log: Path,
    window: float,
    *,
    block: float = 0.0,
    every: float = EVERY,
    threads: int = 0,
    socket_timeout: float = tasks.reservoir.connection.SOCKET_TIMEOUT,
) -> None:
    """Run one run, whose pump pushes the time of its call."""
    tasks.reservoir.connection.SOCKET_TIMEOUT = socket_timeout  # in this process only

    def pump() -> dict[str, Any]:
        began = time.time()
        time.sleep(block)
        return {"began": began}

    client = tasks.reservoir.connection.connect(url)
    beat = Beat(Reservoir(client), "topic", "pump", every=every)
    summary = PumpRun(pump, name="pump", beat=beat, window=window, threads=threads).run()
    figures = {"pushed": summary.pushed, "lost": summary.lost, "failed": summary.failed, **summary.reasons}
    with log.open("a") as file:
        file.write(json.dumps(figures) + "\n")


def hand_over(
    url: str,
    times: int,
    *,
    pause: float,
    kill: float = 0.0,
    meanwhile: Callable[[], None] = lambda: None,
    **run: Any,
) -> Counter[str]:
    """Start a run every `pause` seconds, and return the sum of all runs' counts, with the number of killed runs.

    kill        the probability that a living run is killed after each start
    meanwhile   called after each start
    """
    context, chance = multiprocessing.get_context("fork"), random.Random(4)
    processes: list[Any] = []
    counts: Counter[str] = Counter(killed=0)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "counts"
        for _ in range(times + 1):
            process = context.Process(target=pump_for, args=(url, log, 6 * pause), kwargs=run, daemon=True)
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", DeprecationWarning
                )  # a fork of a process with threads, which hold no lock
                process.start()
            processes.append(process)
            process.join(pause * chance.uniform(0.8, 1.2))
            if chance.random() < kill:
                victim = chance.choice([one for one in processes if one.is_alive()] or processes)
                counts["killed"] += victim.is_alive()
                victim.kill()
            meanwhile()
        for process in processes:
            process.join(6 * pause + 30)  # its window, and the jobs under way at its end
            assert not process.is_alive()
        for line in log.read_text().splitlines():
            counts.update(json.loads(line))
    return counts


def pushed_ticks(client: Any, *, every: float = EVERY) -> tuple[list[int], list[float]]:
    """Return the ticks in the topic, and the sorted delays in seconds between ticks and the starts of their pumps.

    A tick's record names its entry for ten minutes; the entry itself does not contain its tick.
    """
    records = [key for key in client.scan_iter("sluice:beat:pump:*", count=1000) if key.rpartition(b":")[2].isdigit()]
    pushed = {value[1:].decode(): int(key.rpartition(b":")[2]) for key, value in zip(records, client.mget(records), strict=True) if value[:1] == b"="}  # fmt: skip
    entries = Reservoir(client).peek("topic", 1_000_000)
    ticks = [pushed.pop(entry.id, None) for entry in entries]
    assert None not in ticks, "an entry was pushed for no tick, or one that another was pushed for"
    return ticks, sorted(entry["began"] - tick * every for entry, tick in zip(entries, ticks, strict=True))


def check(client: redis.Redis, counts: Counter[str], *, every: float = EVERY) -> str:
    """Compare the runs' counts with the topic: no tick is repeated or out of order, and each absent one is counted.

    Two overlapping runs may both count the same missed tick. Returns a line with the figures.
    """
    ticks, _ = pushed_ticks(client, every=every)
    assert ticks == sorted(ticks), "ticks were pushed out of order"
    assert len(ticks) == counts["pushed"], (
        f"the runs counted {counts['pushed']} pushed ticks, the topic has {len(ticks)}"
    )
    absent = ticks[-1] + 1 - ticks[0] - len(ticks)
    missed = {what: n for what, n in counts.items() if n and what not in ("pushed", "killed")}
    assert absent <= sum(missed.values()), "a tick is missing, and no run counted it"
    return f"{len(ticks)} ticks pushed, {absent} not; counted by the runs: {missed}"
