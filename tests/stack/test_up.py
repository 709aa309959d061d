"""`sluice up` as a real process: from an empty folder to results, through a crash, to an end that leaves nothing behind."""

import contextlib
import os
import signal
import sqlite3
import stat
import sys
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import pytest

from deployments.servers.child import Child
from deployments.servers.ledger import flow_run_processes
from tests.support.plain import clean_environment, entries
from tests.support.ports import reserve_port
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # three servers and ten flow runs, on two busy cores


class Up:
    """`sluice up | tee FILE` in a session of its own, whose processes all receive a Ctrl-C."""

    def __init__(self, state: Path, port: int) -> None:
        self.state = state
        self.port = port
        self.log = state.parent / "up.log"
        self.log.touch()
        command = f"{sys.executable} -m deployments up --port {port} 2>&1"
        self.child = Child(
            "sluice up",
            ["bash", "-c", f"trap : INT; {command} | tee {self.log}; exit ${{PIPESTATUS[0]}}"],
            log=state.parent / "bash.log",
            env=clean_environment(SLUICE_STATE_DIR=str(state), COLUMNS="150"),
            cwd=state.parent,
        )
        self.url = f"unix://{state / 'redis' / 'redis.sock'}"

    def has_printed(self, text: str) -> bool:
        assert self.child.running, self.log.read_text()
        return text in self.log.read_text()

    def processes(self) -> list[psutil.Process]:
        """Return every process that has our state folder in its environment or command."""
        found = []
        for process in psutil.process_iter(["environ", "cmdline"]):
            environ = process.info["environ"] or {}
            mine = environ.get("SLUICE_STATE_DIR") == str(self.state)
            if mine or str(self.state) in " ".join(process.info["cmdline"] or []):
                found.append(process)
        return found


def assert_is_locked(up: Up) -> None:
    """Check that the server requires its login, which only a file of this user contains."""
    file = up.state / "prefect-login"
    secret = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret not in up.log.read_text()
    assert str(file) in up.log.read_text()
    for log in (up.state / "logs").iterdir():
        assert secret not in log.read_text(errors="replace"), log
    assert not [process for process in up.processes() if secret in " ".join(process.info["cmdline"] or [])]
    url = f"http://127.0.0.1:{up.port}/api/admin/version"
    assert httpx.get(url, trust_env=False).status_code == httpx.codes.UNAUTHORIZED


def assert_runs_outlive_the_worker(up: Up) -> None:
    """Check that runs go on without their worker, and that a run killed after it is started again."""
    lasting = set().union(*(ids_of(up, name, "RUNNING") for name in ("movers", "busiest", "archive", "seconds")))
    runs = {run: process for run, process in flow_run_processes(up.state) if run in lasting}
    (worker,) = (each for each in up.processes() if "deployments.processes.worker" in (each.info["cmdline"] or [""])[0])
    worker.kill()
    wait_until(lambda: up.has_printed("worker ended"), "the death of the worker to be noticed")
    assert all(process.is_running() for process in runs.values())
    (busiest,) = ids_of(up, "busiest", "RUNNING")
    runs[busiest].kill()
    wait_until(lambda: busiest in ids_of(up, "busiest", "CRASHED"), "the killed run to be marked")
    wait_until(lambda: ids_of(up, "busiest", "RUNNING"), "its successor", deadline=120)


def ids_of(up: Up, flow: str, state: str) -> set[UUID]:
    """Return the runs of a flow that have a state of this type in Prefect's database."""
    query = "select flow_run.id from flow_run join flow on flow.id = flow_id where flow.name = ? and state_type = ?"
    with contextlib.closing(sqlite3.connect(up.state / "prefect" / "prefect.db")) as db:
        return {UUID(found) for (found,) in db.execute(query, (flow, state))}


def test_sluice_up_runs_everything_survives_a_crash_and_leaves_nothing_behind(tmp_path: Path) -> None:
    state = tmp_path / "state"
    up = Up(state, reserve_port())
    try:
        up.child.start()
        for topic in ("busiest", "signals"):
            wait_until(
                lambda topic=topic: up.has_printed("after") and entries(up.url, topic),
                f"results in {topic}",
                deadline=240,
            )
        before = {topic: entries(up.url, topic) for topic in ("busiest", "signals", "market")}
        assert_is_locked(up)

        assert_runs_outlive_the_worker(up)

        for process in [psutil.Process(up.child.pid), *up.processes()]:  # as if the machine had stopped
            process.kill()
        up.child.kill()  # this also reaps it
        wait_until(lambda: not up.processes(), "all processes to end")

        up.log.write_text("")
        up.child.start()
        wait_until(lambda: up.has_printed("without a process as crashed"), "the lost runs to be found")
        wait_until(lambda: up.has_printed("movers Running"), "the outlets to be back", deadline=240)
        wait_until(lambda: entries(up.url, "signals") > before["signals"], "more results than before")
        assert all(entries(up.url, topic) >= length for topic, length in before.items())

        (tee,) = (process for process in up.processes() if process.name() == "tee")
        os.killpg(up.child.pid or 0, signal.SIGINT)
        with contextlib.suppress(psutil.NoSuchProcess):
            tee.kill()  # where tee has ignored the Ctrl-C: no process reads the output from now on
        wait_until(lambda: not up.child.running, "Ctrl-C to end it")
        assert up.child.exit_code == 0
        assert up.processes() == []
        with contextlib.closing(sqlite3.connect(state / "prefect" / "prefect.db")) as db:
            runs = "select state_name from flow_run join flow on flow.id = flow_id where flow.name = 'movers'"
            assert db.execute(f"{runs} order by flow_run.start_time desc").fetchone() == ("Cancelled",)
    finally:
        up.child.kill()
        for process in up.processes():
            process.kill()
        up.child.kill()
