"""The connection to a Dask cluster, which the graphs of a run share: it is replaced when Dask's client has given up."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Iterator

from dask import config
from distributed import Client, LocalCluster, Status, default_client
from distributed.deploy.spec import SpecCluster

from tasks.base.plain_text import error_line
from tasks.errors import PipelineError, UnavailableError

__all__ = ["Connection", "current", "of_address", "of_local_cluster"]

_UNSEEN = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",  # 20 ms by default
    "distributed.admin.system-monitor.interval": "5s",  # 500 ms by default
}
_CONNECT = 5.0  # seconds for one try to connect

_opened: list["Connection"] = []
"""Those that `of_address` and `of_local_cluster` have opened, newest last."""


class Connection:
    """A client, or the one that has taken its place. Any thread.

    client    the client that is in use
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._address, self._security = client.scheduler.address, client.security  # type: ignore[union-attr] - it is connected
        self._replacing = threading.Lock()
        self._replacements = contextlib.ExitStack()

    @property
    def is_up(self) -> bool:
        """Whether the client is connected with its scheduler."""
        return self.client.status == "running"

    async def look(self) -> None:
        """Replace the client if it has given up: its own tries to reconnect end after `distributed.comm.timeouts.connect`."""
        if self.client.status in ("closed", "closing"):
            await asyncio.get_running_loop().run_in_executor(None, self._replace)

    def revive_workers(self) -> None:
        """Have a cluster of this process start workers again that it has given up.

        A LocalCluster (distributed 2026.8.0) forgets a worker whose restart takes longer than
        `distributed.deploy.lost-worker-timeout`, 15 s, or fails once; without workers, its tasks wait forever.
        """
        cluster = self.client.cluster
        if not isinstance(cluster, SpecCluster) or cluster.status != Status.running:
            return
        for name, worker in list(cluster.workers.items()):
            if worker.status in (Status.closed, Status.failed):
                cluster.workers.pop(name, None)
        if len(cluster.workers) < len(cluster.worker_spec):
            cluster.scale(len(cluster.worker_spec))

    def close(self) -> None:
        """Close the clients that took the place of the first one."""
        self._replacements.close()

    def _replace(self) -> None:
        with self._replacing, contextlib.suppress(OSError):
            if self.client.status not in ("closed", "closing"):
                return  # another graph was quicker
            self.client = self._replacements.enter_context(
                Client(self._address, security=self._security, timeout=_CONNECT, set_as_default=True)
            )


def current() -> Connection:
    """Return the connection of this outlet, or one of the notebook's newest client.

    raises    PipelineError: there is no client
    """
    if _opened:
        return _opened[-1]
    try:
        return Connection(default_client())
    except ValueError as error:
        msg = (
            "scatter: expected a Dask client, found none; make one before the pipeline, distributed.Client(address), "
            "or give the outlet dask='tcp://...' or dask='local'"
        )
        raise PipelineError(msg) from error


@contextlib.contextmanager
def of_address(address: str) -> Iterator[None]:
    """Have a connection with a scheduler as the current one.

    raises    UnavailableError: it does not answer
    """
    with _of(functools.partial(Client, address)):
        yield


@contextlib.contextmanager
def of_local_cluster() -> Iterator[None]:
    """Have a connection with a cluster of this machine as the current one: a worker process for each core, until the end."""
    # TLS with a certificate of this run: without it, every user of the machine could have the workers run code.
    # And no pages on HTTP, which show logs and calls to every user: `dashboard_address=None` would leave them on port 8787.
    # So nothing shows what Dask measures for them, which takes a tenth of a core while nothing runs (distributed 2026.8.0).
    silent = config.set(_UNSEEN | {f"distributed.{each}.http.routes": [] for each in ("scheduler", "worker")})
    place = {"dashboard_address": "127.0.0.1:0", "security": True}
    with silent, LocalCluster(threads_per_worker=1, **place) as cluster, _of(functools.partial(Client, cluster)):
        yield


@contextlib.contextmanager
def _of(connect: functools.partial[Client]) -> Iterator[None]:
    try:
        client = connect(set_as_default=True)
    except OSError as error:
        msg = f"the Dask scheduler of this outlet does not answer ({error_line(error)}); start it, or change `dask`"
        raise UnavailableError(msg) from error
    with client, contextlib.closing(Connection(client)) as connection:
        _opened.append(connection)
        try:
            yield
        finally:
            _opened.remove(connection)
