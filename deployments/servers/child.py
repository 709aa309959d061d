"""Child processes with a log file, kept from the terminal's Ctrl-C, and a stop that always ends."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tasks.base.state_folder import make_private

__all__ = ["Child", "last_lines"]

_PR_SET_PDEATHSIG = 1  # prctl(2)


class Child:
    """A process with a log file, a session of its own, and a stop that always ends.

    name      its name in messages
    command   program and arguments
    log       the file that gets its output
    env, cwd  as for `subprocess.Popen`
    tied      on Linux, send it SIGTERM when its supervisor is killed. For Linux, its parent is the *thread* that started
              it, so start it from the main thread. It may get several signals, one for each thread of the supervisor
              that dies, and a Prefect worker stops at once after the second (3.9.1)

    Because of its own session, the terminal's Ctrl-C does not reach the child: the process that started it ends it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        tied: bool = False,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._env = env
        self._cwd = cwd
        self._tied = tied
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None before the start."""
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """The exit code (-n: ended by signal n), or None if the process runs or was never started."""
        return self._process.poll() if self._process else None

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process with a new log; the previous log is kept as `<log>.1`."""
        make_private(self.log.parent)
        with suppress(FileNotFoundError):
            self.log.replace(self.log.with_name(self.log.name + ".1"))
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
                preexec_fn=_tie_to_parent() if self._tied else None,  # noqa: PLW1509 - it makes two system calls and takes no lock
            )

    def stop(self, *, grace: float, hurry: Callable[[], bool] = lambda: False) -> bool:
        """Send SIGTERM, and SIGKILL to its process group after `grace` seconds or once `hurry` returns True.

        returns   True if the process ended before the SIGKILL
        """
        if self._process is None:
            return True
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while self.running and time.monotonic() < deadline and not hurry():
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
        willing = not self.running
        self.kill()
        return willing

    def kill(self) -> None:
        """Send SIGKILL to the process group, and wait for the process."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def last_lines(log: Path, count: int = 1) -> str:
    """Return the last `count` lines of a log that are not blank, '' if there are none."""
    try:
        text = log.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


def _tie_to_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork, so that the child loads nothing
    parent = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # the parent died between fork and prctl
            os._exit(1)

    return tie
