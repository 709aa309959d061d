"""Stops a run once Prefect counts it as cancelled or over."""

import logging
import threading
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound

__all__ = ["OwnState"]


class OwnState:
    """The state of this run in Prefect. A signal usually ends the run first, but an outage may lose it.

    The watch's thread calls `check`.

    stop           set once the run is to end
    is_cancelled   whether Prefect was seen to want the run cancelled
    """

    def __init__(
        self, name: str, run: UUID | None, stop: threading.Event, log: logging.Logger | logging.LoggerAdapter[Any]
    ) -> None:
        self.is_cancelled = False
        self._name = name
        self._run = run
        self._stop = stop
        self._log = log

    def check(self, client: SyncPrefectClient) -> None:
        """Read the state; set `stop` if it is final, if a cancel is under way, or if the run was deleted."""
        if self._run is None:
            return
        try:
            state = client.read_flow_run(self._run).state
        except ObjectNotFound:
            state, name = None, "deleted"
        else:
            name = state.name if state else ""
        self.is_cancelled = bool(state and state.is_cancelling())
        if (state is None or state.is_cancelling() or state.is_final()) and not self._stop.is_set():
            # Of a cancel, the worker's signal is on its way, and the run's last line reports it.
            level = logging.DEBUG if self.is_cancelled else logging.WARNING
            self._log.log(level, "%s: Prefect's state of this run is %s; it stops", self._name, name)
            self._stop.set()
