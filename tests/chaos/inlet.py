"""Runs of an inlet as real processes that relieve each other, each forked to save the imports."""

import math
import multiprocessing
import random
import time
import warnings
from collections.abc import Callable
from typing import Any

import redis

import tasks.connection
from tasks.pump import Pumping
from tasks.reservoir import Reservoir
from tasks.ticks import Beat
from tests.waiting import wait_until

EVERY = 0.1
# What the runs said of their ticks.
SAID = "said"


def pump_for(
    url: str,
    window: float,
    *,
    block: float = 0.0,
    every: float = EVERY,
    threads: int = 0,
    socket_timeout: float = tasks.connection.SOCKET_TIMEOUT,
) -> None:
    """Be one run: push the tick, and how long after it the pump began."""
    tasks.connection.SOCKET_TIMEOUT = socket_timeout  # of this process alone

    def pump() -> dict[str, Any]:
        now = time.time()
        tick = math.floor(now / every)
        time.sleep(block)
        return {"tick": tick, "off": now - tick * every}

    client = tasks.connection.connect(url)
    beat = Beat(Reservoir(client), "topic", "pump", every=every)
    summary = Pumping(pump, name="pump", beat=beat, window=window, threads=threads).run()
    figures = {"pushed": summary.pushed, "lost": summary.lost, "failed": summary.failed, **summary.reasons}
    wait_until(lambda: answered(client), "a Redis to tell it all")
    for what, ticks in figures.items():
        client.hincrby(SAID, what, ticks)


def answered(client: redis.Redis) -> bool:
    """Return whether the server answers now."""
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def hand_over(
    url: str,
    times: int,
    *,
    pause: float,
    kill: float = 0.0,
    meanwhile: Callable[[], None] = lambda: None,
    **run: Any,
) -> int:
    """Start a run every `pause` seconds, and return how many were killed.

    kill        the chance that one of those alive is killed after each start
    meanwhile   called after each start
    """
    context, chance, killed = multiprocessing.get_context("fork"), random.Random(4), 0
    processes: list[Any] = []
    for _ in range(times + 1):
        process = context.Process(target=pump_for, args=(url, 6 * pause), kwargs=run, daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads: they hold nothing
            process.start()
        processes.append(process)
        process.join(pause * chance.uniform(0.8, 1.2))
        if chance.random() < kill:
            victim = chance.choice([one for one in processes if one.is_alive()] or processes)
            killed += victim.is_alive()
            victim.kill()
        meanwhile()
    for process in processes:
        process.join(6 * pause + 30)  # its window, and what is under way then
        assert not process.is_alive()
    return killed


def said(client: redis.Redis) -> dict[str, int]:
    """Return how many ticks the runs said were missed, lost or failed, by reason."""
    return {what.decode(): int(n) for what, n in client.hgetall(SAID).items() if int(n) and what != b"pushed"}


def what_came(client: redis.Redis) -> tuple[list[int], list[float]]:
    """Return the ticks in the topic, and in order of size how long after them their pumps began."""
    entries = Reservoir(client).peek("topic", 1_000_000)
    return [entry["tick"] for entry in entries], sorted(entry["off"] for entry in entries)


def check(client: redis.Redis) -> tuple[int, int]:
    """Hold what runs that were not killed said against what came; return how many ticks came, and how many did not.

    Two runs that overlap may both miss a tick and say so.
    """
    ticks, _ = what_came(client)
    assert ticks == sorted(set(ticks)), "a tick was pushed twice, or out of order"
    assert len(ticks) == int(client.hget(SAID, "pushed") or 0), "what the runs pushed, by their own count"
    absent = ticks[-1] + 1 - ticks[0] - len(ticks)
    assert absent <= sum(said(client).values()), "a tick did not come, and no run said so"
    return len(ticks), absent
