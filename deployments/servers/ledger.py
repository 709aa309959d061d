"""The ledger of a local stack: one supervisor at a time, and the processes that a killed one left running."""

import fcntl
import json
import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO
from uuid import UUID

import psutil

from deployments.processes.meeting import RUN_TITLE
from tasks.base.state_folder import STATE_DIR, make_private, state_dir
from tasks.errors import SettingsError

__all__ = ["Ledger", "flow_run_processes", "is_alive"]

_FLOW_RUN_ID = "PREFECT__FLOW_RUN_ID"  # in the environment of each flow run's process (Prefect 3.9.1)
_PATIENCE = 1.0  # seconds to try for the lock: `sluice status` holds it for a moment while it reads


class Ledger:
    """A lock in the state folder, and a file with the processes that the stack started."""

    def __init__(self, folder: Path) -> None:
        self._lock = folder / "up.lock"
        self._notes = folder / "stack.json"
        self.folder = folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock, so that no other stack runs in this folder; the kernel releases it if this process is killed.

        raises    SettingsError: another stack is running
        """
        make_private(self.folder)
        if (
            not os.environ.get(STATE_DIR) and self.folder == state_dir()
        ):  # an outlet of 0.1.0 created it readable by everyone
            self.folder.chmod(0o700)
        with self._lock.open("a+") as file:
            if not _locked(file):
                msg = (
                    f"`sluice up` is already running here (process {self.holder() or 'unknown'}, state in {self.folder}); "
                    "watch it with `sluice status`, stop it with Ctrl-C there"
                )
                raise SettingsError(msg)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
            file.truncate(0)

    def holder(self) -> int | None:
        """Return the process id of the supervisor that runs a stack here, or None."""
        try:
            with self._lock.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    return int(file.read() or 0) or None
        except (FileNotFoundError, ValueError):
            return None
        return None

    def record(self, url: str, pids: Iterable[int | None], *, has_login: bool = False) -> None:
        """Record the address of the Prefect server, and the processes that must not outlive the stack.

        has_login    whether that server requires the secret in this folder
        """
        notes = {
            "supervisor": os.getpid(),
            "api_url": url,
            "has_login": has_login,
            "processes": [_identity(pid) for pid in pids if pid is not None and psutil.pid_exists(pid)],
        }
        fresh = self._notes.with_suffix(".new")
        fresh.touch(mode=0o600)  # the address may hold a password
        fresh.write_text(json.dumps(notes))
        fresh.replace(self._notes)

    def supervisor(self) -> int | None:
        """Return the process id of the supervisor that wrote the record."""
        return self._read().get("supervisor")

    def api_url(self) -> str | None:
        """Return the address of the Prefect server that the last stack used."""
        return self._read().get("api_url")

    def has_login(self) -> bool:
        """Return whether that server requires the secret in this folder."""
        return bool(self._read().get("has_login"))

    def forget(self) -> None:
        """Delete the record, after everything that was started has been stopped."""
        self._notes.unlink(missing_ok=True)

    def end_orphans(self, *, grace: float = 10) -> int:
        """Stop the processes that a killed stack left running: flows and worker first, servers last.

        returns   the number of processes
        """
        recorded = [process for note in self._read().get("processes", []) if (process := _same(note))]
        children = [child for process in recorded for child in _children(process)]
        flows = self.end_flows(grace=grace)
        _end(recorded[::-1], grace)
        _end(children, 0)
        return len(recorded) + flows

    def end_flows(self, *, grace: float) -> int:
        """Stop the processes of this stack's flow runs; return their number."""
        flows = [process for _, process in flow_run_processes(self.folder)]
        _end(flows, grace)
        return len(flows)

    def stop_flows(self, runs: Collection[UUID]) -> None:
        """Send SIGTERM to the processes of these flow runs, without waiting for their end."""
        for run, process in flow_run_processes(self.folder) if runs else ():
            if run in runs:
                with suppress(psutil.Error):
                    process.terminate()

    def kill_flows(self, runs: Collection[UUID]) -> None:
        """Send SIGKILL to the processes of these flow runs."""
        if runs:
            _end([process for run, process in flow_run_processes(self.folder) if run in runs], -1)

    def _read(self) -> dict:
        try:
            return json.loads(self._notes.read_text())
        except (FileNotFoundError, ValueError):
            return {}


def flow_run_processes(folder: Path | None = None) -> list[tuple[UUID, psutil.Process]]:
    """Return the flow runs on this machine with their processes; with `folder`, only those of its stack."""
    found = []
    for process in psutil.process_iter(["environ", "cmdline"]):
        environ = process.info["environ"] or {}  # None: another user's
        if folder is not None and environ.get(STATE_DIR) != str(folder):
            continue
        # A forked run has its template's environment there.
        name, run_id = ((process.info["cmdline"] or []) + ["", ""])[:2]
        with suppress(ValueError):
            if run_id := run_id if name == RUN_TITLE else environ.get(_FLOW_RUN_ID):
                found.append((UUID(run_id), process))
    return found


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs: a zombie, which waits to be reaped, does not."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _locked(file: TextIO) -> bool:
    """Try for a moment to lock a file; return whether this process holds the lock."""
    end = time.monotonic() + _PATIENCE
    while True:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.02)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _end(processes: list[psutil.Process], grace: float) -> None:
    """Send SIGTERM, and SIGKILL after `grace` seconds; with `grace` below zero, SIGKILL only."""
    if grace >= 0:
        for process in processes:
            with suppress(psutil.Error):
                process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=max(grace, 0))
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def _identity(pid: int) -> dict[str, float]:
    return {"pid": pid, "created": psutil.Process(pid).create_time()}


def _same(note: dict[str, float]) -> psutil.Process | None:
    # The system reuses process ids: a process with another start time is a different one.
    with suppress(psutil.Error):
        process = psutil.Process(int(note["pid"]))
        if abs(process.create_time() - note["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None
