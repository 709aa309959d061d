"""Has a template fork a run's process; starts the template if none runs. Loads little: each run's command imports this."""

import fcntl
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from deployments.processes.meeting import (
    START_METHOD,
    WITHOUT_THREADS,
    TemplateError,
    folder,
    name_of,
    peer_is_us,
    receive,
    send,
    shared,
)

__all__ = ["Forked", "fork", "forks", "python"]

_START_WITHIN = 120.0  # seconds for a template to import everything, on a busy machine
_NOT_AGAIN_WITHIN = 60.0  # seconds after a template that could not start
_METHODS = ("fork", "spawn")
_TRIES = 3


class Forked(NamedTuple):
    """A process that a template has forked.

    template        a connection on which the template reports how the process has ended
    template_pidfd  the template, if this call has started it; else None
    """

    template: socket.socket
    pid: int
    pidfd: int
    template_pidfd: int | None


def python(is_forked: bool) -> list[str]:  # noqa: FBT001 - reads as a sentence
    """Return the start of a command that runs a module of ours, as `python -m` or in a fork of the template."""
    return [sys.executable, "-m", *(["deployments.processes.run"] if is_forked else [])]


def forks(environ: Mapping[str, str]) -> bool:
    """Return whether runs with this environment are forked.

    raises    ValueError: an unknown start method
    """
    method = environ.get(START_METHOD) or "fork"
    if method not in _METHODS:
        msg = f"{START_METHOD}: expected {' or '.join(_METHODS)}, got {method!r}"
        raise ValueError(msg)
    return method == "fork" and sys.platform == "linux"


def fork(
    program: Sequence[str],
    *,
    environ: Mapping[str, str],
    cwd: str,
    fds: Sequence[int],
    owner: int,
    title: str = "",
    outlives: bool = False,
    first_try: Mapping[str, str] | None = None,
) -> Forked:
    """Have a template fork a process.

    program  the module to run, and its arguments
    fds      standard input, output and error, and the lifeline
    owner    the process with which a new template ends
    title    the process' arguments in `ps`, by default the program
    outlives whether the process goes on if this one is killed; by default, it is killed too
    first_try  the environment of a running template that may accept this one
    raises   TemplateError: no template can fork it; OSError, ValueError
    """
    directory = folder()
    request = {"environ": dict(environ), "cwd": cwd, "program": list(program)}
    request |= {"title": title or "\0".join(program), "outlives": outlives}
    if first_try is not None and (running := _running(directory, first_try)):
        with suppress(TemplateError, OSError, EOFError):
            return _asked(running, request, fds)
    for _ in range(_TRIES):
        template, started = _connected(directory, environ, owner)
        try:
            return _asked(template, request, fds)._replace(template_pidfd=started)
        except (OSError, EOFError):
            continue  # it has just ended, because imported files changed or its worker ended
    msg = f"{_TRIES} of them ended one after the other"
    raise TemplateError(msg)


def _asked(template: socket.socket, request: dict, fds: Sequence[int]) -> Forked:
    try:
        send(template, request, fds)
        reply, received = receive(template)
    except BaseException:
        template.close()
        raise
    if "refused" in reply:
        template.close()
        raise TemplateError(reply["refused"])
    return Forked(template, reply["pid"], received[0], None)


def _running(directory: str, environ: Mapping[str, str]) -> socket.socket | None:
    """Return a connection to the template for an environment if one runs."""
    place = os.open(directory, os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _try(f"/proc/self/fd/{place}/{name_of([sys.executable, sys.version], environ)}")
    finally:
        os.close(place)


def _connected(directory: str, environ: Mapping[str, str], owner: int) -> tuple[socket.socket, int | None]:
    """Return a connection to the template for this interpreter and an environment.

    Start one if none runs, and return its pidfd as well.
    """
    # Through an open folder, the path is never too long for a socket.
    place = os.open(directory, os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name = name_of([sys.executable, sys.version], environ)
        address = f"/proc/self/fd/{place}/{name}"
        if connection := _try(address):
            return connection, None
        return _started(directory, name, address, environ, owner)
    finally:
        os.close(place)


def _started(
    directory: str, name: str, address: str, environ: Mapping[str, str], owner: int
) -> tuple[socket.socket, int | None]:
    with open(os.path.join(directory, f"{name}.lock"), "a+") as lock:  # noqa: PTH123, PTH118
        fcntl.flock(lock, fcntl.LOCK_EX)  # another command may be starting it
        if connection := _try(address):
            return connection, None
        lock.seek(0)
        failed = float(lock.read() or 0)
        if time.time() - failed < _NOT_AGAIN_WITHIN:
            msg = f"it could not start a moment ago, see {name}.log in {directory!r}"
            raise TemplateError(msg)
        lock.truncate(0)
        try:
            return _start(directory, name, address, environ, owner)
        except TemplateError:
            lock.write(str(time.time()))
            raise


def _try(address: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        msg = f"cannot reach it: {error.strerror}"
        raise TemplateError(msg) from error
    if not peer_is_us(connection):
        connection.close()
        msg = "another user listens at its socket"
        raise TemplateError(msg)
    return connection


def _start(
    directory: str, name: str, address: str, environ: Mapping[str, str], owner: int
) -> tuple[socket.socket, int]:
    import subprocess  # noqa: PLC0415 - one run in many starts a template

    log = os.path.join(directory, f"{name}.log")  # noqa: PTH118
    with open(log, "wb") as output:  # noqa: PTH123
        template = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "deployments.processes.template", name, str(owner)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**WITHOUT_THREADS, **shared(environ)},
            cwd=directory,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_WITHIN
    while template.poll() is None and time.monotonic() < deadline:
        if connection := _try(address):
            return connection, os.pidfd_open(template.pid)
        time.sleep(0.02)
    template.kill()
    msg = f"it could not start; see {log!r}"
    raise TemplateError(msg)
