"""Whether Prefect's server still takes writes: one that only answers may have stood still for long."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from httpx import HTTPError, HTTPStatusError, codes
from prefect.client.orchestration import SyncPrefectClient

from deployments.servers.prefect_server import POOL
from flows.runtime.prefect_api import impatient_client

__all__ = ["WriteProbe", "write_through"]

_EVERY = 5.0  # seconds between two tries
_STUCK = 30.0  # seconds without a write after which the server counts as stuck
_TRIES = 3  # that must have failed: after the machine slept, none was made
_PATIENCE = 10.0  # seconds a try may take


def write_through(client: SyncPrefectClient) -> None:
    """Have the server write: the time at which the pool's default queue was updated, which nothing shows.

    raises    HTTPError: the write did not get through
    """
    try:
        client.request("PATCH", "/work_pools/{work_pool_name}/queues/{name}", json={}, path_params={"work_pool_name": POOL, "name": "default"})  # type: ignore[arg-type] # fmt: skip
    except HTTPStatusError as error:
        if error.response.status_code != codes.NOT_FOUND:  # the pool was deleted; that says nothing about the server
            raise


class WriteProbe:
    """Has the server write now and then, from a thread of its own.

    write    does it, or raises HTTPError
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
        """Whether no write has got through for 30 s, although several were tried."""
        return self._failed >= _TRIES and self._clock() - self._since > _STUCK

    def reset(self) -> None:
        """Count from now on: the server has been started again."""
        self._since, self._failed = self._clock(), 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a try that is under way is left to itself."""
        self._closing.set()

    def step(self, client: SyncPrefectClient) -> None:
        """Try once."""
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
