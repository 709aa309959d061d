"""`python -m deployments.processes.run`: the command of a flow run, as a Prefect process worker starts it.

The run itself is forked from a template, a process that has imported Prefect, pandas, Arrow and our packages already:
a start costs milliseconds instead of two seconds of CPU, and the runs share the memory of what is imported. This
command stays as the process that the worker knows: it passes signals on to the run and ends as the run ends. Where no
run can be forked (not on Linux, switched off, no template), it becomes `python -m flows.runtime.engine`.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import time

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

__all__ = ["main"]

_ENGINE = "flows.runtime.engine"
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_START_WITHIN = 120.0  # seconds for a template to import everything, on a busy machine
_NOT_AGAIN_WITHIN = 60.0  # seconds after a template that could not start
_LAST_WORD = 5.0  # seconds for the template to report the exit code after the process has ended
_METHODS = ("fork", "spawn")
_TRIES = 3


def main() -> None:
    """Run a module, by default the one that runs flow runs, as `python -m` does."""
    program = sys.argv[1:] or [_ENGINE]
    if _forks():
        signals = _Signals()
        try:
            run = _forked(program)
        except (TemplateError, OSError, ValueError) as error:  # a full disk, no process or descriptor left
            print(f"sluice: this run starts without a template: {error}", file=sys.stderr, flush=True)  # noqa: T201
            signals.release()
        else:
            signals.pass_on_to(run.pidfd)
            code = run.wait()
            signals.release()
            _end_as(code)
    os.execv(sys.executable, [sys.executable, "-m", *program])  # noqa: S606 - ourselves


def _forks() -> bool:
    method = os.environ.get(START_METHOD) or "fork"
    if method not in _METHODS:
        sys.exit(f"{START_METHOD}: expected {' or '.join(_METHODS)}, got {method!r}")
    return method == "fork" and sys.platform == "linux"


class _Signals:
    """Catches signals for the run, and passes them on once it exists."""

    def __init__(self) -> None:
        self._pidfd: int | None = None
        self._early: list[int] = []
        for number in _PASSED_ON:
            signal.signal(number, self._take)

    def pass_on_to(self, pidfd: int) -> None:
        """Send the run earlier signals and all later ones."""
        self._pidfd = pidfd
        while self._early:
            self._take(self._early.pop(0), None)

    def release(self) -> None:
        """Let signals act on this process, including those that arrived before the run existed."""
        for number in _PASSED_ON:
            signal.signal(number, signal.SIG_DFL)
        for number in self._early:
            os.kill(os.getpid(), number)

    def _take(self, number: int, _frame: object) -> None:
        if self._pidfd is None:
            self._early.append(number)
            return
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            signal.pidfd_send_signal(self._pidfd, number)


class _Run:
    """A run that was forked from a template, as seen by the command that represents it."""

    def __init__(self, template: socket.socket, lifeline: socket.socket, pidfd: int) -> None:
        self._template = template
        self._lifeline = lifeline
        self.pidfd = pidfd

    def wait(self) -> int:
        """Wait until the run has ended; return its exit code, or -n if signal n ended it.

        The template reports that. If the template has ended, the run's own last word counts, and a run without one
        was killed.
        """
        code = -signal.SIGKILL
        deadline = None
        poll = select.poll()
        poll.register(self._template, select.POLLIN)
        poll.register(self._lifeline, select.POLLIN)
        watched = {self._template.fileno(), self._lifeline.fileno()}
        while watched:
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            for fd, _ in (ready := poll.poll(timeout)):
                if fd == self._lifeline.fileno() and (word := self._lifeline.recv(16)):
                    code = int(word)
                    continue
                if fd == self._template.fileno() and (status := self._status()) is not None:
                    return os.waitstatus_to_exitcode(status)
                poll.unregister(fd)
                watched.discard(fd)
            if not ready:
                break
            if self._lifeline.fileno() not in watched:
                deadline = deadline or time.monotonic() + _LAST_WORD
        return code

    def _status(self) -> int | None:
        try:
            return receive(self._template)[0]["status"]
        except (OSError, EOFError):
            return None  # the template has ended; the run goes on


def _forked(program: list[str]) -> _Run:
    """Have the template fork a run.

    raises    TemplateError: it cannot fork one
    """
    directory = folder()
    request = {"environ": dict(os.environ), "cwd": _cwd(), "program": program}
    for _ in range(_TRIES):
        template = _connected(directory)
        lifeline, theirs = socket.socketpair()
        try:
            with theirs:
                send(template, request, [0, 1, 2, theirs.fileno()])
            reply, fds = receive(template)
        except (OSError, EOFError):
            continue  # the template has just ended, because imported files changed or its worker ended
        if "refused" in reply:
            raise TemplateError(reply["refused"])
        return _Run(template, lifeline, fds[0])
    msg = f"{_TRIES} of them ended one after the other"
    raise TemplateError(msg)


def _end_as(code: int) -> None:
    """End this process with the run's exit code or signal."""
    if code < 0:
        os.kill(os.getpid(), -code)
        time.sleep(1)  # in case the signal is ignored by default
    os._exit(code if code >= 0 else 128 - code)


def _cwd() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return "/"


def _connected(directory: str) -> socket.socket:
    """Return a connection to the template for this interpreter and environment; start one if none runs."""
    # Through an open folder, the path is never too long for a socket.
    place = os.open(directory, os.O_DIRECTORY | os.O_CLOEXEC)
    name = name_of([sys.executable, sys.version], os.environ)
    address = f"/proc/self/fd/{place}/{name}"
    if connection := _try(address):
        return connection
    with open(os.path.join(directory, f"{name}.lock"), "a+") as lock:  # noqa: PTH123, PTH118
        fcntl.flock(lock, fcntl.LOCK_EX)  # another command may be starting it
        if connection := _try(address):
            return connection
        lock.seek(0)
        failed = float(lock.read() or 0)
        if time.time() - failed < _NOT_AGAIN_WITHIN:
            msg = f"it could not start a moment ago, see {name}.log in {directory!r}"
            raise TemplateError(msg)
        lock.truncate(0)
        try:
            return _start(directory, name, address)
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


def _start(directory: str, name: str, address: str) -> socket.socket:
    import subprocess  # noqa: PLC0415 - one run in many starts a template

    log = os.path.join(directory, f"{name}.log")  # noqa: PTH118
    with open(log, "wb") as output:  # noqa: PTH123
        template = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "deployments.processes.template", name, str(os.getppid())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**WITHOUT_THREADS, **shared(os.environ)},
            cwd=directory,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_WITHIN
    while template.poll() is None and time.monotonic() < deadline:
        if connection := _try(address):
            return connection
        time.sleep(0.02)
    template.kill()
    msg = f"it could not start; see {log!r}"
    raise TemplateError(msg)


if __name__ == "__main__":
    main()
