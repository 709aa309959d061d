"""`python -m deployments.processes.run`: the command of a flow run, as a Prefect process worker starts it.

The run itself is forked from a template, a process that has imported Prefect, pandas, Arrow and our packages already:
a start costs milliseconds instead of two seconds of CPU, and the runs share the memory of what is imported. This
command stays as the process that the worker knows: it passes signals on to the run and ends as the run ends. Where no
run can be forked (not on Linux, switched off, no template), it becomes `python -m flows.runtime.engine`.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import time

from deployments.processes.forking import Forked, fork, forks
from deployments.processes.meeting import TemplateError, receive

__all__ = ["main"]

_ENGINE, _SUPERVISOR = "flows.runtime.engine", "deployments.supervisor"
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_LAST_WORD = 5.0  # seconds for the template to report the exit code after the process has ended


def main() -> None:
    """Run a module, by default the one that runs flow runs, as `python -m` does."""
    program = sys.argv[1:] or [_ENGINE]
    try:
        is_forked = forks(os.environ)
    except ValueError as error:
        sys.exit(str(error))
    if is_forked:
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
            run.end_own_template()
            _end_as(code)
    os.execv(sys.executable, [sys.executable, "-m", *program])  # noqa: S606 - ourselves


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

    def __init__(self, forked: Forked, lifeline: socket.socket, *, is_own: bool) -> None:
        self._template = forked.template
        self._lifeline = lifeline
        self._own_template = forked.template_pidfd if is_own else None
        self.pidfd = forked.pidfd

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

    def end_own_template(self) -> None:
        """End the template if it was started for this command, and wait for that, so that nothing is left."""
        if self._own_template is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._own_template, signal.SIGTERM)
        poll = select.poll()
        poll.register(self._own_template, select.POLLIN)
        poll.poll(_LAST_WORD * 1000)

    def _status(self) -> int | None:
        try:
            return receive(self._template)[0]["status"]
        except (OSError, EOFError):
            return None  # the template has ended; the run goes on


def _forked(program: list[str]) -> _Run:
    """Have the template fork a run.

    raises    TemplateError: it cannot fork one
    """
    lifeline, theirs = socket.socketpair()
    with theirs:
        # A template ends with the worker whose runs it forks, or with `sluice up`, which is the first to need one.
        is_own = program[0] == _SUPERVISOR
        owner = os.getpid() if is_own else os.getppid()
        forked = fork(program, environ=dict(os.environ), cwd=_cwd(), fds=[0, 1, 2, theirs.fileno()], owner=owner)
    return _Run(forked, lifeline, is_own=is_own)


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


if __name__ == "__main__":
    main()
