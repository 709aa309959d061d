"""One child process: its log, its end, and how it is kept from the terminal's Ctrl-C."""

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

    name      what it is called in messages
    command   program and arguments
    log       file its output is appended to
    env, cwd  as for `subprocess.Popen`
    tied      ask Linux to send it SIGTERM when its supervisor is killed (macOS cannot). Linux takes the *thread* that
              started it for its parent: start it from the main thread. It may get more than one: one for each thread
              of the supervisor that dies, which a Prefect worker takes for impatience (3.9.1)

    The session of its own keeps the terminal's Ctrl-C away: whoever started the child decides when it ends.
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
        """Its process id, or None before it was started."""
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """How it ended (-n: by signal n), or None if it runs or was never started."""
        return self._process.poll() if self._process else None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; its log begins anew, the log before is kept as `<log>.1`."""
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
        """Send SIGTERM, and SIGKILL to all it left once `grace` seconds are over or `hurry` says so.

        returns   True if it ended by itself
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
        """Send SIGKILL to it and to all it started in its session's group, and wait for it."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def last_lines(log: Path, count: int = 1) -> str:
    """Return the last `count` lines of a log that say something, '' if there are none."""
    try:
        text = log.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


def _tie_to_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: nothing is loaded in the child
    parent = os.getpid()

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return tie
