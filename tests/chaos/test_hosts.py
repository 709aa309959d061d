"""Hosts of their own: one is cut off and comes back, while both share a partitioned topic."""

import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import redis
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from deployments.rollout.apply import ensure_automations, ensure_pool
from deployments.servers.redis_server import RedisServer
from tests.chaos.hosts import Host, Network, reachable_stack
from tests.chaos.test_machines import HEARTBEATS
from tests.support.plain import Plain
from tests.support.sharing import deploy, expect_exact_results, like_shipped, steady_load, workers_of
from tests.support.waiting import wait_until

LEASE = 3  # seconds
FOUND_OUT = 330  # seconds until a host that is cut off counts as gone, and its run continues on another one
# Seconds that a host's wall clock is ahead. Prefect replaces runs that are alive where it is a minute behind (docs/machines.md).
AHEAD, BEHIND = 90, -45
TWO = {"limit": 2, "collision_strategy": "CANCEL_NEW"}


def start_on(stack: Plain, host: Host, *, not_on: Host) -> FlowRun:
    """Start a run on one host, while the other host's worker takes none."""
    with not_on.idle():
        made = stack.client.create_flow_run_from_deployment(stack.deployment("counting/counting"))
        wait_until(lambda: host.running([stack.client.read_flow_run(made.id)]), "a run there", deadline=FOUND_OUT)
    return stack.client.read_flow_run(made.id)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("ahead", [0, AHEAD, BEHIND], ids=["clocks agree", "clock ahead", "clock behind"])
def test_a_host_that_is_cut_off_is_relieved_and_fenced_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with (
        Network(2) as network,
        RedisServer(tmp_path / "redis") as reservoir,
        redis.Redis.from_url(reservoir.url, protocol=2) as client,
        reachable_stack(tmp_path / "plain", reservoir, network.address) as stack,
        Host(stack, network.namespaces[0], tmp_path / "one") as one,
        Host(stack, network.namespaces[1], tmp_path / "other", ahead=ahead) as other,
    ):
        ensure_pool(stack.client)
        ensure_automations(stack.client)  # one of them marks silent runs as crashed

        def shares() -> dict[int, int]:
            return dict(Counter(workers_of(client).values()))

        def all_runs() -> list[FlowRun]:
            return stack.runs("counting")

        with deploy(stack, like_shipped(concurrency_limit=TWO, parameters={"lease": f"{LEASE}s"})):
            with steady_load(client) as pushed:
                here, there = start_on(stack, one, not_on=other), start_on(stack, other, not_on=one)
                seen_running = time.monotonic()
                mine, theirs = one.runs[str(here.id)], other.runs[str(there.id)]
                wait_until(lambda: shares() == {mine: 2, theirs: 2}, "equal shares")

                network.cut(other.namespace)
                began = time.monotonic()
                wait_until(lambda: shares() == {mine: 4}, "the partitions to move")
                moved = time.monotonic() - began
                network.mend(other.namespace)
                began = time.monotonic()
                wait_until(lambda: shares() == {mine: 2, theirs: 2}, "equal shares again")
                returned = time.monotonic() - began
                assert "taken for dead" in other.worker.log.read_text()

                # Prefect does not notice a run that falls silent before its first heartbeat.
                # Its start time is by its own clock.
                first_heartbeats = seen_running + HEARTBEATS.total_seconds()
                wait_until(lambda: time.monotonic() > first_heartbeats, "its first heartbeats")
                network.cut(other.namespace)
                began = time.monotonic()
                wait_until(lambda: stack.state(there.id) == "Crashed", "it to count as dead", deadline=FOUND_OUT)
                wait_until(lambda: len(one.running(all_runs())) == 2, "it to run elsewhere", deadline=FOUND_OUT)
                replaced = time.monotonic() - began
                wait_until(lambda: sorted(shares().values()) == [2, 2], "equal shares of both runs of one host")
                network.mend(other.namespace)
                wait_until(lambda: not other.runs, "the run that was replaced to end")
            wait_until(lambda: client.xlen("counts") >= pushed.total(), "the rest")
            expect_exact_results(client, pushed)
            for run in one.running(all_runs()):
                stack.client.set_flow_run_state(run.id, Cancelling())
            wait_until(lambda: not one.runs, "the end of both")
    sys.stdout.write(
        f"{pushed.total()} entries, a result each; partitions moved {moved:.1f} s after the cut, back {returned:.1f} s after "
        f"its end; the run continued elsewhere after {replaced:.0f} s\n"
    )
