"""Processes that a killed supervisor leaves behind are ended by its guardian or its successor."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO
from uuid import UUID, uuid4

import psutil
import pytest

from deployments.servers.child import Child
from deployments.servers.ledger import Ledger, flow_run_processes
from tasks.errors import SettingsError
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]

# A supervisor like that of `sluice up`: lock, guardian, a recorded server, a flow run that ends at SIGTERM.
SUPERVISOR = """
import os, sys, time
from pathlib import Path
from deployments.servers.child import Child
from deployments.stack.guardian import Guardian
from deployments.servers.ledger import Ledger
folder = Path(sys.argv[1])
ledger = Ledger(folder)
with ledger.held(), Guardian(folder, os.getpid(), cwd=Path.cwd()):
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    server = Child("server", sleep, log=folder / "server.log")
    server.start()
    env = {**os.environ, "SLUICE_STATE_DIR": str(folder), "PREFECT__FLOW_RUN_ID": sys.argv[2]}
    Child("flow", sleep, log=folder / "flow.log", env=env).start()
    ledger.record("http://nowhere/api", [server.pid])
    print("ready", flush=True)
    time.sleep(600)
"""


def sleeping(folder: Path, **env: str) -> Child:
    child = Child("sleeper", SLEEP, log=folder / "sleeper.log", env={**os.environ, **env})
    child.start()
    return child


@pytest.mark.slow
def test_processes_of_a_killed_supervisor_end_by_themselves(tmp_path: Path) -> None:
    run = uuid4()
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path), str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "ready\n"
        left = [process for found, process in flow_run_processes(tmp_path) if found == run]
        left += psutil.Process(supervisor.pid).children(recursive=True)
        assert len(left) >= 4  # flow (twice), server, guardian
        supervisor.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(process.is_running() for process in left), "flow, server and guardian to end")


def test_orphans_are_ended_by_their_process_id_and_start_time(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    recorded, unrelated = sleeping(tmp_path), sleeping(tmp_path)
    ledger.record("http://nowhere/api", [recorded.pid, None])
    assert ledger.end_orphans(grace=5) == 1
    assert not recorded.running
    assert unrelated.running
    assert ledger.end_orphans(grace=5) == 0

    # A later process with the id of a recorded one does not belong to the stack.
    ledger.record("http://nowhere/api", [unrelated.pid])
    notes = tmp_path / "stack.json"
    created = psutil.Process(unrelated.pid).create_time()
    notes.write_text(notes.read_text().replace(str(created), str(created - 100)))
    assert ledger.end_orphans(grace=5) == 0
    assert unrelated.running
    unrelated.kill()


def test_only_the_flow_runs_of_this_folder_are_ended(tmp_path: Path) -> None:
    ours, theirs = str(uuid4()), str(uuid4())
    mine = sleeping(tmp_path, SLUICE_STATE_DIR=str(tmp_path), PREFECT__FLOW_RUN_ID=ours)
    other = sleeping(tmp_path, SLUICE_STATE_DIR=str(tmp_path / "other"), PREFECT__FLOW_RUN_ID=theirs)
    wait_until(lambda: {UUID(ours), UUID(theirs)} <= {run for run, _ in flow_run_processes()}, "both to be seen")
    assert [run for run, _ in flow_run_processes(tmp_path)] == [UUID(ours)]
    assert Ledger(tmp_path).end_flows(grace=5) == 1
    assert not mine.running
    assert other.running
    other.kill()


def test_a_second_supervisor_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "made")
    assert ledger.holder() is None
    with ledger.held():
        assert Ledger(tmp_path / "made").holder() == os.getpid()
        with pytest.raises(SettingsError, match=f"already running here .process {os.getpid()}"), ledger.held():
            pass
    assert ledger.holder() is None
    with ledger.held():
        pass


def test_reading_the_holder_of_a_stack_does_not_block_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    with ledger.held():
        pass
    looks = (tmp_path / "up.lock").open()
    fcntl.flock(looks, fcntl.LOCK_SH)  # for a moment, as holder() does
    refused: list[int] = []
    flock = fcntl.flock

    def end_the_look_when_it_is_in_the_way(file: TextIO, operation: int) -> None:
        try:
            flock(file, operation)
        except OSError:
            refused.append(operation)
            looks.close()
            raise

    monkeypatch.setattr(fcntl, "flock", end_the_look_when_it_is_in_the_way)
    with ledger.held():
        assert ledger.holder() == os.getpid()
    assert refused[0] == fcntl.LOCK_EX | fcntl.LOCK_NB


def test_notes_that_cannot_be_read_are_no_notes(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{")
    assert Ledger(tmp_path).api_url() is None
    assert Ledger(tmp_path).end_orphans(grace=1) == 0
