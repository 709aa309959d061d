"""Runs of a worker that are forked without a command beside each: a command takes 6 MB and 50 ms of CPU."""

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from prefect.logging import get_logger

from deployments.processes.forking import Forked, fork, forks
from deployments.processes.meeting import RUN_TITLE, TemplateError, receive

__all__ = ["ForkedProcess", "run_process"]

_COMMAND = "deployments.processes.run"
_ENGINE = "flows.runtime.engine"
_RUN_ID = "PREFECT__FLOW_RUN_ID"

logger = get_logger("worker.processes")


class ForkedProcess:
    """A forked run, as Prefect sees a child process. It lives on if this process is killed."""

    def __init__(self, forked: Forked, lifeline: socket.socket) -> None:
        self.pid = forked.pid
        self.returncode: int | None = None
        self._forked = forked
        self._lifeline = lifeline

    async def wait(self) -> int:
        """Wait until the run has ended; return its exit code, or -n if signal n ended it."""
        if self.returncode is None:
            self.returncode = await self._ended()
        return self.returncode

    async def _ended(self) -> int:
        await _readable(self._forked.template.fileno())
        try:
            return os.waitstatus_to_exitcode(receive(self._forked.template)[0]["status"])
        except (OSError, EOFError):
            await _readable(self._forked.pidfd)  # the template has ended, and the run went on
        # Its last word counts; a run without one was killed.
        with suppress(OSError, ValueError):
            return int(self._lifeline.recv(16, socket.MSG_DONTWAIT))
        return -signal.SIGKILL

    def close(self) -> None:
        """Stop the run unless it has ended, and close what belongs to it here."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._forked.pidfd, signal.SIGTERM)
        os.close(self._forked.pidfd)
        self._forked.template.close()
        self._lifeline.close()


async def run_process(command: Sequence[str], *, run: Any, **options: Any) -> Any:
    """Replace Prefect's `run_process` for a command of ours: have the template fork the run, and wait for its end.

    run      Prefect's function, for other commands, and where no run can be forked
    options  those of Prefect's function
    """
    environ: dict[str, str] = options.get("env") or dict(os.environ)
    if not _is_ours(command, environ):
        return await run(command, **options)
    try:
        process = await asyncio.to_thread(_forked, environ, options.get("cwd"), is_shown=bool(options["stream_output"]))
    except (TemplateError, OSError, ValueError) as error:
        logger.warning("a run starts without a template: %s", error)
        return await run(command, **options)
    try:
        if (status := options.get("task_status")) is not None:
            handler = options.get("task_status_handler")
            status.started(handler(process) if handler else process.pid)
        await process.wait()
    finally:
        process.close()
    return process


def _is_ours(command: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Return whether a command is `python -m deployments.processes.run` of this interpreter, and its run can be forked."""
    try:
        is_forked = forks(environ)
    except ValueError:  # the command reports it, in the log of its run
        return False
    return (
        list(command[1:]) == ["-m", _COMMAND]
        and shutil.which(command[0], path=environ.get("PATH")) == sys.executable
        and bool(environ.get(_RUN_ID))
        and is_forked
    )


def _forked(environ: Mapping[str, str], cwd: Any, *, is_shown: bool) -> ForkedProcess:
    lifeline, theirs = socket.socketpair()
    try:
        with theirs, open(os.devnull, "r+b") as nothing:  # noqa: PTH123 - a file to pass on
            output = [1, 2] if is_shown else [nothing.fileno()] * 2
            forked = fork(
                [_ENGINE],
                environ=environ,
                cwd=str(cwd or "."),
                fds=[nothing.fileno(), *output, theirs.fileno()],
                owner=os.getpid(),
                outlives=True,
                first_try=os.environ,  # the template that has forked this worker
                title=f"{RUN_TITLE}\0{environ[_RUN_ID]}",
            )
    except BaseException:
        lifeline.close()
        raise
    return ForkedProcess(forked, lifeline)


async def _readable(fd: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
