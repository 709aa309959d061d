"""A pump run on a simulated clock, stepped like a real one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from tasks import Reservoir
from tasks.pump.run import PumpRun
from tasks.pump.ticks import Beat
from tests.support.waiting import wait_until


class Clock:
    """A clock that moves only when a test sets it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


begun: list[PumpRun] = []


@contextmanager
def ending_all() -> Iterator[None]:
    """Close all runs that `pumping` began."""
    try:
        yield
    finally:
        while begun:
            begun.pop().close()


def pumping(
    client: redis.Redis, pump: Callable[[], Any], clock: Clock, *, every: float = 1.0, **options: Any
) -> PumpRun:
    made = PumpRun(
        pump,
        name="pump",
        beat=Beat(Reservoir(client), "topic", "pump", every=every),
        clock=clock,
        **({"timer": clock} | options),
    )
    made.begin()
    begun.append(made)
    return made


def pushed(client: redis.Redis) -> list[Any]:
    return [entry["n"] for entry in Reservoir(client).peek("topic", 10_000)]


def run_until(one: PumpRun, clock: Clock, end: float) -> None:
    """Step as `PumpRun.run` does, and move the clock by the wait that each step returns."""
    while clock.now < end and (wait := one.step()) is not None:
        clock.now += wait
        settle(one)


def settle(one: PumpRun) -> None:
    """Wait until ended jobs are pushed, and skipped ones claimed."""
    wait_until(lambda: not [job for job in one._handover.jobs if job.ended is not None or job.skipped], "the pushes")


class Gate:
    """Pump calls that each wait until the test opens their gate, in any order."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.gates: list[threading.Event] = []
        self.lock = threading.Lock()

    def pump(self) -> dict[str, int]:
        with self.lock:
            mine = len(self.gates)
            self.gates.append(threading.Event())
        self.started.release()
        assert self.gates[mine].wait(10)
        return {"n": mine}
