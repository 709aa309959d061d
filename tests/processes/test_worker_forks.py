"""Workers that have their runs forked: without a command beside each run, and outlived by the runs."""

import signal
import subprocess
import sys

import psutil
import pytest

from deployments.servers.ledger import flow_run_processes
from tests.support.forked_runs import Runs
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="runs are forked on Linux only"),
]

WORKER = """
import asyncio, os, sys
from prefect.utilities.processutils import run_process as of_prefect
from deployments.processes import direct

async def main():
    direct._ENGINE = "a_program"
    command = [sys.argv[1], "-m", "deployments.processes.run"]
    ended = await direct.run_process(command, run=of_prefect, stream_output=True, env=dict(os.environ), cwd=os.getcwd())
    print("ended", type(ended).__name__, ended.pid, ended.returncode, flush=True)

asyncio.run(main())
"""
RUN_ID = "0d4bf8f4-7a4c-4d43-9c3d-5a7c8f5a2f10"


def _worker(runs: Runs, program: str, *, command: str = sys.executable, **environ: str) -> subprocess.Popen[str]:
    """Start a worker whose run is this program."""
    (runs.modules / "a_program.py").write_text(
        f"import os, signal, sys, time\nprint(os.getpid(), flush=True)\n{program}\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, command],
        env=runs.environment(PREFECT__FLOW_RUN_ID=RUN_ID, **environ),
        cwd=runs.modules.parent,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("program", "code"),
    [("", 0), ("sys.exit(3)", 3), ("os._exit(5)", 5), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL)],
)
def test_a_worker_forks_a_run_without_a_command(own_runs: Runs, program: str, code: int) -> None:
    with _worker(own_runs, program) as worker:
        out, _ = worker.communicate(timeout=240)
    pid, last = out.splitlines()
    assert last == f"ended ForkedProcess {pid} {code}"


def test_a_run_of_another_program_is_left_to_prefect(own_runs: Runs) -> None:
    # Without a server, Prefect's engine fails at once; it would otherwise start one and wait 20 s for it.
    spawned = {"SLUICE_START_METHOD": "spawn", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"}
    with _worker(own_runs, "sys.exit(3)", command=sys.executable, **spawned) as worker:
        out, _ = worker.communicate(timeout=240)
    assert "ended Process" in out


@pytest.mark.parametrize("has_template", [True, False])
def test_a_forked_run_outlives_its_killed_worker(own_runs: Runs, has_template: bool) -> None:
    with _worker(own_runs, "time.sleep(600)") as worker:
        assert worker.stdout
        pid = int(worker.stdout.readline())
        found = [process.pid for run, process in flow_run_processes(own_runs.state) if str(run) == RUN_ID]
        if not has_template:
            own_runs.kill_templates()
        assert worker.poll() is None
        worker.kill()
        worker.wait()
        run = psutil.Process(pid)
        assert pid in found
        assert run.cmdline()[:2] == ["sluice-run", RUN_ID]
        run.terminate()
        wait_until(lambda: not psutil.pid_exists(pid) or run.status() == psutil.STATUS_ZOMBIE, "its end at a signal")
