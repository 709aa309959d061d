"""Async pumps: one event loop for all calls of a run, which runs between them and ends with the run."""

import asyncio
import contextvars
import threading
from collections.abc import Iterator

import pytest
import redis

from tasks.base import loop_thread
from tests.support.pumps import Clock, ending_all, pumping, pushed, run_until
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def end_all() -> Iterator[None]:
    with ending_all():
        yield


class Session:
    """A client of an API: bound to the loop that created it, with a task that keeps it alive."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.alive = 0
        self.is_closed = threading.Event()
        self._task = self.loop.create_task(self._live())

    async def _live(self) -> None:
        try:
            while True:
                self.alive += 1
                await asyncio.sleep(0.001)
        finally:
            self.is_closed.set()

    async def get(self) -> int:
        assert asyncio.get_running_loop() is self.loop
        return self.alive


@pytest.mark.parametrize("threads", [0, 2])
def test_a_session_of_an_async_pump_lives_between_ticks_and_ends_with_the_run(
    client: redis.Redis, threads: int
) -> None:
    clock, sessions = Clock(), []

    async def pump() -> dict[str, int]:
        if not sessions:
            sessions.append(Session())
        return {"n": await sessions[0].get()}

    one = pumping(client, pump, clock, threads=threads)
    for clock.now in (1001.0, 1002.0, 1003.0):
        one.step()
        wait_until(lambda: not one._handover.jobs, "the push")
        seen = sessions[0].alive
        wait_until(lambda seen=seen: sessions[0].alive > seen, "the session's own task between two ticks")
    first, second, third = pushed(client)
    assert first < second < third
    assert one.summary.failed == 0
    one.close()
    assert sessions[0].is_closed.is_set()
    assert sessions[0].loop.is_closed()


def test_async_pumps_run_side_by_side_and_are_pushed_in_tick_order(client: redis.Redis) -> None:
    clock, gates = Clock(), []

    async def pump() -> dict[str, int]:
        mine = len(gates)
        gates.append(asyncio.Event())
        if mine == 2:
            for gate in gates:
                gate.set()
        await gates[mine].wait()
        return {"n": mine}

    one = pumping(client, pump, clock, threads=3)
    for tick in range(3):
        clock.now = 1001.0 + tick
        one.step()
        wait_until(lambda tick=tick: len(gates) > tick, "the pump")
    wait_until(lambda: not one._handover.jobs, "the pushes")
    assert pushed(client) == [0, 1, 2]


def test_async_pump_that_exceeds_its_timeout_is_cancelled_and_keeps_the_order(client: redis.Redis) -> None:
    clock, cancelled, calls = Clock(), threading.Event(), []

    async def pump() -> dict[str, int]:
        calls.append(None)
        if len(calls) == 1:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.set()
                raise
        return {"n": len(calls)}

    one = pumping(client, pump, clock, threads=1, timeout=0.05)
    for clock.now in (1001.0, 1002.0):
        one.step()
        wait_until(lambda: not one._handover.jobs, "the pump")
    assert cancelled.wait(20)
    assert pushed(client) == [2]
    assert one.summary.failed == 1


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_an_async_pump_that_raises_any_exception_costs_its_own_tick_only(
    client: redis.Redis, error: type[BaseException]
) -> None:
    clock, calls = Clock(), []

    async def pump() -> dict[str, int]:
        calls.append(asyncio.get_running_loop())
        if len(calls) == 2:
            raise error
        return {"n": len(calls)}

    one = pumping(client, pump, clock)
    run_until(one, clock, 1003.5)
    assert pushed(client) == [1, 3]
    assert one.summary.failed == 1
    assert len(set(calls)) == 1


def test_an_async_pump_that_blocks_its_loop_does_not_block_the_end(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_thread, "_PATIENCE", 0.05)
    clock, may_end, is_blocking = Clock(), threading.Event(), threading.Event()

    async def pump() -> None:
        is_blocking.set()
        may_end.wait(60)

    one = pumping(client, pump, clock, threads=1, timeout=0.05)
    clock.now = 1001.0
    one.step()
    assert is_blocking.wait(20)
    wait_until(lambda: not one._handover.jobs, "the timeout")
    closing = threading.Thread(target=one.close)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    may_end.set()
    assert one.summary.failed == 1


def test_an_async_pump_has_the_context_of_its_run(client: redis.Redis) -> None:
    clock, run = Clock(), contextvars.ContextVar("run", default=0)
    run.set(7)

    async def pump() -> dict[str, int]:
        return {"n": run.get()}

    run_until(pumping(client, pump, clock), clock, 1001.5)
    assert pushed(client) == [7]


def test_all_kinds_of_awaitables_are_awaited(client: redis.Redis) -> None:
    clock = Clock()

    async def fetch(n: int) -> dict[str, int]:
        return {"n": n}

    run_until(pumping(client, lambda: fetch(3), clock), clock, 1001.5)
    assert pushed(client) == [3]
