"""A process that the template has forked: it becomes the run of its request, and reports its exit code."""

import contextlib
import os
import runpy
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from deployments.processes.meeting import RUN_TITLE, peer_is_us, receive

__all__ = ["Outcome", "Request", "become", "report_end", "requested", "run_program"]


@dataclass(frozen=True, slots=True)
class Request:
    """The program and environment of a run's process."""

    program: list[str]
    environ: dict[str, str]
    cwd: str
    fds: list[int]
    """Standard input, output and error, and the lifeline: a socket to the process that asked for the run."""
    title: str
    """The arguments of the process in `ps`."""
    outlives: bool
    """Whether the run goes on after the other end of its lifeline has closed."""


@dataclass
class Outcome:
    """The exit code of this process, a run."""

    lifeline: int
    code: int = 0


def requested(connection: socket.socket) -> Request | None:
    """Return the request on a connection; None if it is another user's.

    raises    OSError, EOFError, ValueError: the request is incomplete
    """
    if not peer_is_us(connection):
        return None
    message, fds = receive(connection)
    return Request(message["program"], message["environ"], message["cwd"], fds, message["title"], message["outlives"])


def become(request: Request) -> None:
    """Give this process the environment, folder, files and random seed that a new process would have."""
    os.setsid()
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(RUN_TITLE)  # the name in `ps` and `top`
    *standard, lifeline = request.fds
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
        os.close(fd)
    with contextlib.suppress(OSError, ValueError):  # a hardened system may refuse it
        _set_title(request.title)
    if not request.outlives:
        threading.Thread(target=_end_with, args=(lifeline,), name="lifeline", daemon=True).start()
    os.environ.clear()
    os.environ.update(request.environ)
    os.chdir(request.cwd)
    sys.path[0] = request.cwd  # as `python -m` does
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # the random module reseeds itself


def _set_title(title: str) -> None:
    """Replace the arguments in this process' `/proc/self/cmdline`, by which `sluice up` finds the processes of runs."""
    # The name of the process, in the second field, may hold spaces. See proc(5): arg_start and arg_end are fields 48 and 49.
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    text = title.encode()[: end - start - 1]
    with open("/proc/self/mem", "r+b", buffering=0) as memory:  # noqa: PTH123 - pathlib would read it as text first
        memory.seek(start)
        memory.write(text.ljust(end - start, b"\0"))


def _end_with(lifeline: int) -> None:
    """End this process if the command that represents it is killed."""
    if not os.read(lifeline, 1):
        os.kill(os.getpid(), signal.SIGKILL)


def run_program(program: list[str], outcome: Outcome) -> None:
    """Run a module as `python -m` does."""
    module, *sys.argv[1:] = program
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ending:
        outcome.code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        raise
    except BaseException:
        outcome.code = 1
        raise


def report_end(ending: list[Outcome]) -> None:
    """Send the exit code to the command, in case the template has ended by then."""
    for outcome in ending:
        with contextlib.suppress(OSError):
            os.write(outcome.lifeline, str(outcome.code).encode())
