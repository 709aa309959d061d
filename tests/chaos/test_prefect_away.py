"""A deployed outlet under load during outages of the Prefect server: each result comes once, and the run ends properly."""

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from deployments.rollout.apply import ensure_automations
from deployments.servers.redis_server import RedisServer
from tasks.reservoir import Reservoir
from tests.chaos.outlet import numbers_in
from tests.support.plain import Plain
from tests.support.repeating import repeating
from tests.support.sharing import deploy_blocks, like_shipped
from tests.support.waiting import wait_until

RATE = 20  # entries per second; the results of five minutes are kept


@contextmanager
def steady_load(client: redis.Redis) -> Iterator[list[int]]:
    """Push a number every 1/RATE seconds within this context; yield the pushed numbers."""
    pushed: list[int] = []
    reservoir = Reservoir(client)

    def push() -> None:
        reservoir.push("numbers", {"n": len(pushed)})
        pushed.append(len(pushed))

    with repeating(push, every=1 / RATE):
        yield pushed


def deploy_like_a_shipped_one(stack: Plain, entrypoint: str, *, names: Sequence[str] = ("main",)) -> None:
    """Deploy an outlet like the shipped ones, with a replica for each name."""
    ensure_automations(stack.client)
    deploy_blocks(stack, *(like_shipped(entrypoint=entrypoint, name=name) for name in names))


def running(stack: Plain) -> FlowRun | None:
    return next((run for run in stack.runs("passing") if run.state_name == "Running"), None)


def result_times(client: redis.Redis) -> list[float]:
    """Return the time of each result, in seconds of the server's clock."""
    return [int(id_.partition("-")[0]) / 1000 for id_ in numbers_in(client, "results")]


def longest_gap(times: list[float], begin: float, end: float) -> float:
    """Return the longest time without a result between two moments."""
    within = [begin, *(t for t in times if begin < t < end), end]
    return max(b - a for a, b in itertools.pairwise(within))


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("away", [20, 120])
def test_results_continue_without_prefects_server_and_the_run_can_be_cancelled_later(
    away: int, redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    with Plain(tmp_path / "plain", redis_server) as stack:
        stack.deploy()
        stack.worker.start()
        ensure_automations(stack.client)  # one of them marks silent runs as crashed
        deploy_like_a_shipped_one(stack, "tests/chaos/deployed.py:passing")
        stack.prefect("deployment", "run", "passing/main")
        with steady_load(real_redis) as pushed:
            wait_until(lambda: real_redis.xlen("results"), "results", deadline=90)
            [first] = stack.runs("passing")
            assert stack.server.stop(grace=20)
            stopped = time.time()
            wait_until(lambda: time.time() > stopped + away, "the outage to last", deadline=away + 10)
            back = time.time()
            stack.start_server()
            wait_until(lambda: time.time() > back + away, "the effects of the outage", deadline=away + 10)
            wait_until(lambda: running(stack), "a run that is Running")
        wait_until(lambda: real_redis.xlen("results") >= len(pushed), "the rest")
        last = running(stack)
        assert last
        stack.client.set_flow_run_state(last.id, Cancelling())
        wait_until(lambda: stack.state(last.id) == "Cancelled", "the end of the run")
        states = [run.state_name for run in stack.runs("passing")]
    times = result_times(real_redis)
    gap, meanwhile = longest_gap(times, stopped, back), sum(stopped < t < back for t in times)
    sys.stdout.write(
        f"server away for {away} s: {meanwhile} results meanwhile, longest gap {gap:.2f} s, {longest_gap(times, back, times[-1]):.2f} s "
        f"afterwards; {len(pushed)} entries, {len(times)} results; runs {states}\n"
    )
    assert list(numbers_in(real_redis, "results").values()) == pushed
    assert gap < 2
    # Prefect 3.8.8 may count a run as dead after an outage of 90 s (README, "Limits"): its successor continues.
    assert states == (["Cancelled"] if last.id == first.id else ["Crashed", "Cancelled"])
