"""The template of flow runs: a process that has imported the modules of all runs, and forks one for each request.

It forks only while it has a single thread. It ends with the process whose runs it starts (a Prefect worker), and when a
file that it has imported, what is installed, or the user's Prefect profiles have changed: the next run starts a new one.
Runs outlive it.
"""

import atexit
import contextlib
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from deployments.processes.forked_process import Outcome, Request, become, report_end, requested, run_program
from deployments.processes.meeting import WITHOUT_THREADS, send, shared
from tasks.base.imported_files import imported_files, stamps

__all__ = ["Template", "main"]

# The modules that runs import before their flow's file, or because of it. Only the run imports that file.
_PRELOADED = (
    "anyio._backends._asyncio",
    "email.policy",
    "encodings.idna",
    "flows",
    "flows.runtime.posting",
    "flows.runtime.postponed",
    "pandas",
    "pandas.io.formats.string",
    "prefect._internal.pytz",
    "prefect.deployments.steps.pull",
    "prefect.engine",
    "prefect.events.clients",
    "prefect.events.worker",
    "prefect.flow_engine",
    "prefect.task_engine",
    "psutil",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "pydantic.v1",
    "rich._emoji_codes",
    "tasks.codec.frames",
    "tasks.nodes.time_window",
    "tasks.nodes.to_parquet",
    "tornado.platform.asyncio",
)
_REQUEST_WITHIN = 10.0  # seconds for a complete request to arrive


def main() -> None:
    """Serve the socket of the first argument until the process of the second argument has ended."""
    name, owner = sys.argv[1], int(sys.argv[2])
    ending: list[Outcome] = []
    environ = shared(os.environ)
    atexit.register(report_end, ending)  # registered first, so that it runs last
    for module in _PRELOADED:
        importlib.import_module(module)
    from deployments.processes.folder_settings import FolderSettings  # noqa: PLC0415 - it imports Prefect
    from deployments.processes.rehearsal import rehearse  # noqa: PLC0415 - it imports Prefect

    rehearse()
    settings = FolderSettings()
    template = Template(Path(name), owner=owner, environ=environ, read_settings=settings.read_if_changed)
    gc.collect()
    gc.freeze()  # otherwise each collection in a run would copy shared pages
    request = template.serve()
    if request is None:
        os._exit(0)  # without the exit handlers of imported modules, which run in the runs
    ending.append(outcome := Outcome(request.fds[3]))
    become(request)
    settings.read_if_changed()  # otherwise the run has them from the template
    run_program(request.program, outcome)


class Template:
    """Listens for requests, forks a run for each, and reports how each has ended.

    path    the socket; its folder is the working directory
    owner   the process whose end also ends this one
    environ  the variables that this process started with
    read_settings  reads Prefect's settings from the working directory, unless it did
    """

    def __init__(
        self, path: Path, *, owner: int, environ: Mapping[str, str], read_settings: Callable[[], None]
    ) -> None:
        self._path = path
        self._environ = dict(environ)
        self._read_settings = read_settings
        self._settings = _settings()
        self._pid = os.getpid()
        self._runs: dict[int, socket.socket] = {}
        self._profiles = _profiles()
        self._read = self._read_files()
        self._selector = selectors.DefaultSelector()
        self._signals, self._wakeup = socket.socketpair()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._owner = os.pidfd_open(owner)
        for end in (self._signals, self._wakeup):
            end.settimeout(0)
        fresh = path.with_name(f"{path.name}.new")
        fresh.unlink(missing_ok=True)
        self._listener.bind(str(fresh))
        self._listener.listen(socket.SOMAXCONN)
        self._inode = fresh.stat().st_ino
        fresh.replace(path)  # from here on, commands can connect

    def serve(self) -> Request | None:
        """Fork a run for each request. Return the request in the run's process, and None when the template must end."""
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for source in (self._owner, self._signals, self._listener):
            self._selector.register(source, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in self._selector.select()}
            if self._signals in ready:
                with contextlib.suppress(BlockingIOError):
                    self._signals.recv(4096)
                self._report_ended()
            if self._owner in ready or (self._listener in ready and self._read != self._read_files()):
                self._close()
                return None
            if self._listener in ready and (request := self._answer()) is not None:
                return request

    def _answer(self) -> Request | None:
        """Fork a run. Return the request in its process, and None in this one."""
        connection, _ = self._listener.accept()
        connection.settimeout(_REQUEST_WITHIN)
        try:
            request = requested(connection)
        except (OSError, EOFError, ValueError):
            request = None
        if request is None:
            connection.close()
            return None
        try:
            return self._fork(request, connection)
        except OSError as error:
            self._decline(connection, f"it cannot fork: {error.strerror}")
        finally:
            for fd in request.fds if os.getpid() == self._pid else ():
                os.close(fd)
        return None

    def _fork(self, request: Request, connection: socket.socket) -> Request | None:
        # A run in a folder with faulty settings meets the error itself, and reports it.
        with contextlib.suppress(Exception), contextlib.chdir(request.cwd):
            self._read_settings()
        if refusal := self._refusal(request):
            self._decline(connection, refusal)
            return None
        pid = os.fork()
        if pid == 0:
            connection.close()
            self._leave()
            return request
        self._runs[pid] = connection
        pidfd = os.pidfd_open(pid)  # the child has not been reaped yet
        with contextlib.suppress(OSError):  # the command was killed: its run ends by the lifeline
            send(connection, {"pid": pid}, [pidfd])
        os.close(pidfd)
        return None

    @staticmethod
    def _decline(connection: socket.socket, why: str) -> None:
        with connection, contextlib.suppress(OSError):
            send(connection, {"refused": why})

    def _refusal(self, request: Request) -> str | None:
        """Return the reason if a run cannot be forked from this process."""
        wanted = {**WITHOUT_THREADS, **shared(request.environ)}
        if wanted not in (self._environ, self._environ | self._settings):
            return "it has another environment"
        threads = [Path("/proc/self/task", task, "comm").read_text().strip() for task in os.listdir("/proc/self/task")]  # noqa: PTH208
        return f"its imports have started threads ({', '.join(threads[1:])})" if len(threads) > 1 else None

    def _report_ended(self) -> None:
        while self._runs:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with self._runs.pop(pid) as connection, contextlib.suppress(OSError):
                send(connection, {"status": status})

    def _leave(self) -> None:
        """Close the template's files and handlers in a run's process."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        os.close(self._owner)
        for each in (self._listener, self._signals, self._wakeup, *self._runs.values()):
            each.close()

    def _read_files(self) -> dict[str, tuple[int, int]]:
        """Return time and size of the files that this process depends on: its code and Prefect's profiles."""
        return imported_files() | stamps(self._profiles)

    def _close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:  # otherwise a newer template owns the path
                self._path.unlink()
        self._listener.close()


def _settings() -> dict[str, str]:
    """Return this process's Prefect settings as the variables that a process worker adds to the environment of its runs."""
    from prefect.settings import get_current_settings  # noqa: PLC0415 - main() imports Prefect

    return get_current_settings().to_environment_variables(exclude_unset=True)


def _profiles() -> Path:
    """Return the file with Prefect's profiles."""
    from prefect.settings import get_current_settings  # noqa: PLC0415 - main() imports Prefect

    return get_current_settings().profiles_path


if __name__ == "__main__":
    main()
