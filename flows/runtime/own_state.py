"""Stops a run once Prefect counts it as cancelled or over."""

import logging
import threading
import time
from contextlib import suppress
from typing import Any, Self
from uuid import UUID

import redis
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound

from flows.runtime.poll_turn import PollTurn
from flows.runtime.shared_poll import SharedPoll
from tasks.errors import SluiceError
from tasks.reservoir.connection import connect
from tasks.settings import redis_url

__all__ = ["OwnState"]

_UNKNOWN = 30.0  # seconds after which a state from the shared poll is out of date, and this run asks for its own
_ASK_SECONDS = 10.0  # between two of these requests
_LIVE = frozenset({"SCHEDULED", "PENDING", "RUNNING", "PAUSED"})


class OwnState:
    """The state of this run in Prefect. A signal usually ends the run first, but an outage may lose it.

    The watch's thread calls all methods.

    run            the run; None outside a flow run
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
        self._poll: SharedPoll | None = None
        self._turn: PollTurn | None = None
        self._heard = time.monotonic()
        self._next_question = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the shared poll."""
        if self._turn:
            self._turn.__exit__()
        if self._poll:
            with suppress(redis.RedisError):
                self._poll.leave()

    def check(self, client: SyncPrefectClient) -> None:
        """Read the state; set `stop` if it is final, if a cancel is under way, or if the run was deleted.

        The state comes from the poll that all runs share. `client` is used for this participant's turns, and for a question of
        its own while the shared poll has no news: nobody reaches the server, or Redis refuses its keys.

        raises    httpx.HTTPError
        """
        if self._run is None:
            return
        state = self._polled(self._run, client)
        if state is None and time.monotonic() > max(self._heard + _UNKNOWN, self._next_question):
            self._next_question = time.monotonic() + _ASK_SECONDS
            state = self._asked(self._run, client)
        if state is None or state in _LIVE:
            return
        self.is_cancelled = state == "CANCELLING"
        if not self._stop.is_set():
            # Of a cancel, the worker's signal is on its way, and the run's last line reports it.
            level = logging.DEBUG if self.is_cancelled else logging.WARNING
            self._log.log(level, "%s: Prefect's server counts this run as %s; it stops", self._name, state.lower())
            self._stop.set()

    def _polled(self, run: UUID, client: SyncPrefectClient) -> str | None:
        """Return the state type, or 'OVER', from the shared poll; None if it has no current one."""
        with suppress(redis.RedisError, SluiceError):  # the stream itself reports outages
            self._poll = self._poll or SharedPoll(connect(redis_url()), name=str(run))
            self._turn = self._turn or PollTurn(self._poll, self._log, client)
            seen, now = self._poll.look()
            self._turn.step()
            if seen and now - seen.at < _UNKNOWN:
                self._heard = time.monotonic()
                return seen.state
        return None

    @staticmethod
    def _asked(run: UUID, client: SyncPrefectClient) -> str:
        try:
            state = client.read_flow_run(run).state
        except ObjectNotFound:
            return "DELETED"
        return state.type.value if state else "PENDING"
