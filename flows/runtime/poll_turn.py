"""Polls Prefect's server for all runs, in turn, and starts runs of inlets that need one."""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID

import redis
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType

from flows.runtime.comeback import ended_runs, failures, pause_after
from flows.runtime.custom_parameters import run_again
from flows.runtime.prefect_api import impatient_client
from flows.runtime.shared_poll import PAUSED, SharedPoll, scheduled_by

__all__ = ["PollTurn", "run_key"]

_LET_OTHERS_TRY = 6.0  # seconds without a turn after a request that failed
_LEFT_TO_AUTOMATIONS = 10.0  # seconds after a crash in which only automations start a new run


class PollTurn:
    """The turns of one participant in the shared poll; a context manager.

    prefect   a client that each request may use; by default, one is opened for as long as this participant holds the lease
    """

    def __init__(
        self,
        poll: SharedPoll,
        log: logging.Logger | logging.LoggerAdapter[Any],
        prefect: SyncPrefectClient | None = None,
    ) -> None:
        self._poll = poll
        self._log = log
        self._given = prefect
        self._opened: ExitStack | None = None
        self._prefect = prefect
        self._not_before = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def step(self) -> None:
        """Poll Prefect's server for all runs if it is this participant's turn, and start runs of inlets that need one.

        raises    redis.RedisError
        """
        if time.monotonic() < self._not_before:
            return
        if not self._poll.take_turn():
            if not self._poll.leads:
                self._close()
            return
        try:
            prefect = self._client()
            for deployment in self._poll.refresh(prefect):
                _start_again(prefect, deployment)
        except redis.RedisError:
            raise
        except Exception as error:  # noqa: BLE001 - without an answer, the states stay unknown
            self._log.debug("Prefect's server has not answered: %s", type(error).__name__)
            self._close()
            # Another participant may reach it.
            self._not_before = time.monotonic() + _LET_OTHERS_TRY
            self._poll.give_up_turn()

    def _client(self) -> SyncPrefectClient:
        if self._prefect is None:
            self._opened = ExitStack()
            self._prefect = self._opened.enter_context(impatient_client())
        return self._prefect

    def _close(self) -> None:
        if self._opened:
            self._opened.close()
        self._opened, self._prefect = None, self._given


def _start_again(prefect: SyncPrefectClient, deployment: Mapping[str, Any]) -> None:
    """Start a run of an inlet that has none, without waiting for its schedule, if it was resumed after a pause or has crashed.

    After a pause only if all schedules are intervals: others have times at which nothing must run. After a crash only if the
    automation that starts it at once has not: on SQLite, Prefect's server can lose the action.
    """
    scheduled = scheduled_by(deployment)
    if not scheduled:
        return
    ended = ended_runs(prefect, UUID(deployment["id"]))
    if not ended:
        return
    last = ended[0]
    if last.state_name == PAUSED and all("interval" in schedule["schedule"] for schedule, _ in scheduled):
        for _, parameters in scheduled:
            key = run_key(f"after {last.id}", parameters)
            prefect.create_flow_run_from_deployment(UUID(deployment["id"]), parameters=parameters, idempotency_key=key)
    elif last.state_type in (StateType.CRASHED, StateType.FAILED) and last.end_time:
        silent = (datetime.now(UTC) - last.end_time).total_seconds()
        if silent > _LEFT_TO_AUTOMATIONS + pause_after(failures(ended)):
            run_again(prefect, deployment, idempotency_key=f"after {last.id}")


def run_key(what: str, parameters: Mapping[str, Any]) -> str:
    """Return an idempotency key for a run with these parameters, so that several requests create one run."""
    return f"{what} {json.dumps(parameters, sort_keys=True, default=str)}"
