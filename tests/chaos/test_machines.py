"""Two machines with a worker and a replica of an outlet each: one pauses and continues, or disappears."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import redis
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from deployments.rollout.apply import ensure_automations
from deployments.servers.ledger import flow_run_processes
from deployments.servers.prefect_server import worker
from deployments.servers.redis_server import RedisServer
from tests.chaos.outlet import numbers_in
from tests.chaos.test_prefect_away import deploy_like_a_shipped_one, steady_load
from tests.support.plain import ROOT, Plain
from tests.support.waiting import wait_until

HEARTBEATS = timedelta(minutes=1)  # in which a run sends two
FOUND_OUT = 180  # seconds until a silent machine counts as gone and its run continues on another one


class Machine:
    """A worker of a stack's pool with its runs, as on a machine of its own."""

    def __init__(self, stack: Plain, folder: Path) -> None:
        self.folder = folder
        env = stack.env | {"SLUICE_STATE_DIR": str(folder)}
        self.worker = worker(log=folder / "worker.log", env=env, cwd=ROOT)

    def runs(self) -> set[str]:
        return {str(run) for run, _ in flow_run_processes(self.folder)}

    def send(self, signum: int, *, also_to_runs: bool = True) -> None:
        """Send a signal to its worker and its runs; SIGSTOP looks to others like a machine that is cut off."""
        runs = [process for _, process in flow_run_processes(self.folder)] if also_to_runs else []
        for process in [psutil.Process(self.worker.pid), *runs]:
            os.kill(process.pid, signum)


@contextmanager
def machines(stack: Plain, folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """Yield two machines that replace the stack's own worker."""
    stack.worker.kill()
    both = Machine(stack, folder / "one"), Machine(stack, folder / "other")
    try:
        for each in both:
            each.worker.start()
        yield both
    finally:
        for each in both:
            each.worker.kill()
            for _, process in flow_run_processes(each.folder):
                process.kill()


def running_on(stack: Plain, machine: Machine) -> list[FlowRun]:
    running = [run for run in stack.runs("passing") if run.state_name == "Running"]
    there = machine.runs() if running else set()
    return [run for run in running if str(run.id) in there]


def has_sent_heartbeats(run: FlowRun) -> bool:
    """Return whether a run must have sent its first heartbeats, of which the server stores none."""
    began = run.start_time
    return began is not None and datetime.now(UTC) - began > HEARTBEATS


def run_on(stack: Plain, machine: Machine, deployment: str, *, not_on: Machine) -> FlowRun:
    """Start a run on one machine, while the other machine's worker takes none."""
    not_on.send(signal.SIGSTOP, also_to_runs=False)
    before = len(running_on(stack, machine))
    stack.prefect("deployment", "run", deployment)
    wait_until(lambda: len(running_on(stack, machine)) > before, f"{deployment} to run there", deadline=120)
    not_on.send(signal.SIGCONT, also_to_runs=False)
    return running_on(stack, machine)[-1]


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_replicas_relieve_suspended_and_lost_ones_and_each_result_appears_once(
    redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    with Plain(tmp_path / "plain", redis_server) as stack, machines(stack, tmp_path) as (one, other):
        ensure_automations(stack.client)  # one of them marks silent runs as crashed
        deploy_like_a_shipped_one(stack, "tests/chaos/deployed.py:passing", names=("main", "second"))
        with steady_load(real_redis) as pushed:

            def results() -> int:
                return real_redis.xlen("results")

            def all_so_far_come(what: str) -> None:
                there = len(pushed)
                wait_until(lambda: results() >= there, what, deadline=30)

            run_on(stack, one, "passing/main", not_on=other)
            still = run_on(stack, other, "passing/second", not_on=one)
            all_so_far_come("the results of both")
            # Prefect does not notice a run that falls silent before its first heartbeat.
            wait_until(lambda: has_sent_heartbeats(still), "its first heartbeats")

            other.send(signal.SIGSTOP)
            stood_still = time.monotonic()
            all_so_far_come("what the one that stands still had")
            wait_until(lambda: stack.state(still.id) == "Crashed", "it to be taken for dead", deadline=FOUND_OUT)
            wait_until(lambda: len(running_on(stack, one)) == 2, "it to run elsewhere", deadline=FOUND_OUT)
            relieved = time.monotonic() - stood_still
            other.send(signal.SIGCONT)
            wait_until(lambda: not other.runs(), "the one that was relieved to end")
            all_so_far_come("results after it was back")

            on_it = running_on(stack, one)
            wait_until(lambda: all(map(has_sent_heartbeats, on_it)), "their first heartbeats")
            one.send(signal.SIGKILL)
            gone = time.monotonic()
            wait_until(
                lambda: len(running_on(stack, other)) == 2, "both to run on the other machine", deadline=FOUND_OUT
            )
            moved = time.monotonic() - gone
            all_so_far_come("results of the other machine")
        wait_until(lambda: results() >= len(pushed), "the rest", deadline=30)
        for run in running_on(stack, other):
            stack.client.set_flow_run_state(run.id, Cancelling())
        wait_until(lambda: not other.runs(), "the end of both")
    assert sorted(numbers_in(real_redis, "results").values()) == pushed
    sys.stdout.write(
        f"{len(pushed)} entries, a result each; a replica that stood still ran elsewhere after {relieved:.0f} s, "
        f"two whose machine was gone after {moved:.0f} s\n"
    )
