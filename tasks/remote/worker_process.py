"""A process that calls one function, and ends with the process that started it."""

import contextlib
import pickle
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import DEVNULL

from tasks.remote import calls

__all__ = ["WorkerDiedError", "WorkerProcess"]


class WorkerDiedError(Exception):
    """A worker process ended during a call, or before it was ready; the message has its exit code."""


class WorkerProcess:
    """A process that calls one function. Any thread, one at a time; `kill` at any time.

    It is started as a program, and not forked or spawned by multiprocessing: a fork would copy locks that other threads hold,
    and a spawn would import the main module again.

    function    pickled, for the import path of this process
    """

    def __init__(self, function: bytes) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                # -P: its folder is not on the import path, where its neighbours would hide modules of the same names
                [sys.executable, "-P", str(Path(calls.__file__).resolve()), str(descriptor)],
                pass_fds=[descriptor],
                stdin=DEVNULL,
            )
        self._connection = Connection(ours.detach())
        self._is_ready = False
        self._setup = [pickle.dumps([entry or "." for entry in sys.path]), function]

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def load(self) -> None:
        """Wait until the process has imported its function.

        raises    what the import raised; WorkerDiedError
        """
        if self._is_ready:
            return
        with self._raising_death():
            for message in self._setup:
                self._connection.send_bytes(message)
            outcome = self._connection.recv_bytes()
        calls.result_of(outcome)
        self._is_ready = True

    def call(self, element: bytes) -> bytes:
        """Call the function on a pickled element; return the outcome.

        raises    WorkerDiedError
        """
        with self._raising_death():
            self._connection.send_bytes(element)
            return self._connection.recv_bytes()

    def kill(self) -> None:
        """End the process, and wait until it has. A call that is under way in another thread raises WorkerDiedError."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process and close the connection. Only without a call in another thread."""
        self.kill()
        self._connection.close()

    @contextlib.contextmanager
    def _raising_death(self) -> "contextlib.Generator[None]":
        try:
            yield
        except (EOFError, OSError) as error:
            self.close()
            msg = f"exit code {self._process.returncode}"
            raise WorkerDiedError(msg) from error
