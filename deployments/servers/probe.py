"""Probe whether Prefect's server still stores writes: a server that answers requests may be stuck."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from httpx import HTTPError, HTTPStatusError, codes
from prefect.client.orchestration import SyncPrefectClient

from deployments.servers.prefect_server import POOL
from flows.runtime.prefect_api import impatient_client

__all__ = ["WriteProbe", "write_through"]

_EVERY = 5.0  # seconds between two attempts
_STUCK = 30.0  # seconds without a write after which the server counts as stuck
_TRIES = 3  # failed attempts that are required: after the machine slept, none was made
_PATIENCE = 10.0  # timeout of an attempt, in seconds


def write_through(client: SyncPrefectClient) -> None:
    """Have the server write the update time of the pool's default queue, which no page shows.

    raises    HTTPError: the server did not store the write
    """
    try:
        client.request("PATCH", "/work_pools/{work_pool_name}/queues/{name}", json={}, path_params={"work_pool_name": POOL, "name": "default"})  # type: ignore[arg-type] # fmt: skip
    except HTTPStatusError as error:
        if error.response.status_code != codes.NOT_FOUND:  # the pool was deleted; the server may be healthy
            raise


class WriteProbe:
    """Has the server write every few seconds, in a thread of its own.

    write    performs one write, or raises HTTPError
    """

    def __init__(
        self,
        write: Callable[[SyncPrefectClient], None] = write_through,
        *,
        every: float = _EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._every = every
        self._clock = clock
        self._since = clock()
        self._failed = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="write probe", daemon=True)

    @property
    def is_stuck(self) -> bool:
        """Whether several writes were attempted, and none succeeded for 30 s."""
        return self._failed >= _TRIES and self.silent > _STUCK

    @property
    def silent(self) -> float:
        """Seconds since a write has succeeded, or since the start."""
        return self._clock() - self._since

    def reset(self) -> None:
        """Forget failures, because the server was restarted."""
        self._since, self._failed = self._clock(), 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end, without waiting for an attempt in progress."""
        self._closing.set()

    def step(self, client: SyncPrefectClient) -> None:
        """Attempt one write."""
        try:
            self._write(client)
        except HTTPError:
            self._failed += 1
        else:
            self.reset()

    def _run(self) -> None:
        while not self._closing.is_set():
            with suppress(HTTPError), impatient_client(_PATIENCE) as client:
                while not self._closing.wait(self._every):
                    self.step(client)
