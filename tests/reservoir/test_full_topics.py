"""Full topics: appends wait, and nothing is lost."""

import asyncio
from typing import Any

import redis

from tasks import Reservoir
from tasks.nodes.to_redis import to_redis
from tasks.pump.run import PumpRun
from tasks.pump.ticks import Beat
from tasks.reservoir.keep import Keep
from tests.support.streams import at_work, drain, here, pending, push_all
from tests.support.waiting import wait_until


def test_waiting_inlet_misses_ticks_on_a_full_topic_without_a_failure(client: redis.Redis) -> None:
    at_work(client, "group")
    beat = Beat(Reservoir(client), "topic", "inlet", every=1.0, keep=Keep(entries=1, when_full="wait"))
    now = 100.0
    pumping = PumpRun(
        lambda: {"n": b"x" * 5_000}, name="inlet", beat=beat, max_failures=1, clock=lambda: now, timer=lambda: now
    )
    pumping.begin()

    def tick() -> None:
        nonlocal now
        now += 1.0
        pumping.step()
        wait_until(lambda: not pumping._handover.jobs, "the push")

    for _ in range(10):
        tick()
    summary = pumping.summary
    assert (summary.failed, summary.lost) == (0, 0)
    assert set(summary.reasons) == {"the topic is full"}
    assert summary.pushed + summary.missed == summary.due == 10
    assert client.xlen("topic") == summary.pushed
    client.xreadgroup("group", "c", {"topic": ">"}, noack=True)
    tick()
    assert pumping.summary.pushed == summary.pushed + 1
    pumping.stop()
    wait_until(lambda: pumping.step() is None, "the end")


def test_results_wait_for_a_full_topic_and_keep_their_order(client: Any) -> None:
    at_work(client, "group")
    client.rename("topic", "results")
    push_all(client, "source", range(8))
    read: list[int] = []
    waited: list[list[str]] = []

    async def read_one(kept: to_redis) -> None:
        while len(read) < 8:
            if kept._waiting or not pending(client, "source", "g"):
                waited.append(pending(client, "source", "g"))
                for _, entries in client.xreadgroup("group", "c", {"results": ">"}, noack=True) or ():
                    read.extend(int(fields[b"n"]) for _, fields in entries)
            await asyncio.sleep(0.001)

    async def main() -> None:
        source = here(client, "source", group="g")
        kept = source.pluck("n").map(as_large).to_redis("results", keep=1, when_full="wait")
        source.open()
        reading = asyncio.create_task(read_one(kept))
        await drain(source, until=lambda: len(read) == 8)
        await reading
        source.close()

    asyncio.run(main())
    assert read == list(range(8))
    assert any(waited)  # entries whose results waited were not acknowledged


def as_large(n: int) -> dict[str, Any]:
    return {"n": n, "x": b"x" * 5_000}
