"""Deployed runs that share a partitioned topic: a rolling restart, and one more run while the group lags."""

from collections import Counter
from typing import Any

import pytest
import redis
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from tests.stack.test_end_to_end import sluice
from tests.support.documents import ROOT
from tests.support.plain import Plain
from tests.support.sharing import KEYS, deploy, expect_exact_results, like_shipped, push, steady_load, workers_of
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
]  # a server, a worker and six runs, on a busy machine of two cores

TWO = {"limit": 2, "collision_strategy": "CANCEL_NEW"}


def start_anew(client: redis.Redis) -> None:
    """Delete what earlier tests have left of the topics and the group."""
    for pattern in ("*shared*", "*counting*", "*counts*"):
        if keys := list(client.scan_iter(match=pattern)):
            client.delete(*keys)


def shares(client: redis.Redis) -> list[int]:
    """Return how many partitions each process works on, of those that have made the newest results."""
    return sorted(Counter(workers_of(client).values()).values())


def cancel(stack: Plain) -> None:
    """Stop all runs of the flow, and wait for their ends."""
    alive = [run for run in stack.runs("counting") if run.state_name in ("Running", "Pending", "Scheduled")]
    for run in alive:
        stack.client.set_flow_run_state(run.id, Cancelling())
    wait_until(lambda: {stack.state(run.id) for run in alive} <= {"Cancelled"}, "the end of all runs")


def test_restart_replaces_runs_one_by_one_and_no_partition_waits_for_a_lease(plain: Plain) -> None:
    """With a lease of an hour, partitions whose run did not give them up would have no results before the deadline."""
    block = like_shipped(concurrency_limit=TWO, parameters={"lease": "1h"})
    with redis.Redis.from_url(plain.redis_url, protocol=2) as client, deploy(plain, block) as [deployment]:
        start_anew(client)
        with steady_load(client) as pushed:
            old: list[FlowRun] = [plain.client.create_flow_run_from_deployment(deployment) for _ in range(2)]
            wait_until(lambda: shares(client) == [2, 2], "equal shares")
            before = set(workers_of(client).values())
            done = sluice(plain, "restart", "counting")
            assert done.returncode == 0, done.stdout + done.stderr
            wait_until(
                lambda: shares(client) == [2, 2] and before.isdisjoint(workers_of(client).values()),
                "equal shares of the new runs",
            )
        wait_until(lambda: client.xlen("counts") >= pushed.total(), "the rest")
        expect_exact_results(client, pushed)
        runs = {run.id: run for run in plain.runs("counting") if run.deployment_id == deployment}
        first, second = sorted((runs.pop(run.id) for run in old), key=lambda run: run.end_time or run.created)
        third, fourth = sorted(runs.values(), key=lambda run: run.created)
        assert [run.state_name for run in (first, second, third, fourth)] == [
            "Cancelled",
            "Cancelled",
            "Running",
            "Running",
        ]
        assert first.end_time <= third.start_time <= second.end_time <= fourth.start_time
        cancel(plain)


def extra_run() -> dict[str, Any]:
    """Return the block of an extra run in docs/partitions.md, for the flow `counting`."""
    text = (ROOT / "docs" / "partitions.md").read_text()
    _, _, rest = text.partition("### One more run while a group lags")
    shown = rest.partition("```yaml\n")[2].partition("```")[0]
    base = (ROOT / "prefect.yaml").read_text()
    block = yaml.safe_load(f"{base}\n{shown}")["deployments"][-1]
    renamed = (
        yaml.safe_dump(block).replace("readings.consumption", "shared.counting").replace("consumption", "counting")
    )
    return yaml.safe_load(renamed) | {"entrypoint": "tests/chaos/deployed.py:counting"}


def test_a_lagging_group_gets_one_more_run_that_ends_by_itself(plain: Plain) -> None:
    slow = {"work_ms": 10}
    extra = extra_run()
    extra["parameters"] |= {**slow, "run_for": "40s"}
    with (
        redis.Redis.from_url(plain.redis_url, protocol=2) as client,
        deploy(plain, like_shipped(parameters=slow), extra) as [usual, added],
    ):
        start_anew(client)
        push(client, Counter(), rounds=30_000 // len(KEYS))  # five minutes for one run
        plain.client.create_flow_run_from_deployment(usual)
        wait_until(lambda: client.xlen("counts"), "the usual run to work")
        [only] = set(workers_of(client).values())
        plain.client.create_flow_run_from_deployment(plain.deployment("levels/levels"), parameters={"max_lag": 3})
        wait_until(lambda: set(workers_of(client).values()) - {only}, "another run to work", deadline=240)
        [run] = [run for run in plain.runs("counting") if run.deployment_id == added]
        assert run.created_by is not None
        assert run.created_by.type == "AUTOMATION"
        wait_until(lambda: plain.state(run.id) == "Completed", "its end")
        wait_until(lambda: set(workers_of(client).values()) == {only}, "the usual run to have all partitions")
        cancel(plain)
        start_anew(client)  # no later test sees a group that lags
