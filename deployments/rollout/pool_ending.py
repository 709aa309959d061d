"""End the runs of the local pool: all of them at a stop, and at a start those that a killed stack left behind."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from httpx import HTTPStatusError, TimeoutException, codes
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling

from deployments.rollout.blueprint import Blueprint
from deployments.rollout.deployed import deployed, of_blueprint
from deployments.rollout.runs import ALIVE, of_pool
from flows.runtime.prefect_api import when_not_busy

__all__ = ["ABANDONED", "cancel", "delete_runs", "discard_late", "sweep"]

# A state of type Crashed with a name that the outlets' triggers do not match: `sluice up` starts the outlets itself, and
# runs that the triggers started besides would only be cancelled again.
ABANDONED = "Abandoned"
_STOPPING = "`sluice up` is stopping."
_BEREFT = 5.0  # seconds in which the worker reports a run whose process has ended
_POLL = 0.3  # seconds between two requests for the states of runs that are ending
_ENDS_AT_A_SIGNAL = frozenset({"inlet", "outlet"})  # tags: another flow ends as Crashed, and its hooks run
_BULK = 50  # the server deletes no more at once (3.9.1)


def sweep(
    client: SyncPrefectClient,
    *,
    alive: Collection[UUID],
    among: Collection[UUID] | None = None,
    state: State | None = None,
    orphans: bool = True,
    until: float = math.inf,
) -> tuple[int, int]:
    """Set runs without a process to a final state, which also frees their concurrency slots.

    alive     the runs that have a process
    among     the runs to check; None: all of the pool
    state     the final state; default: crashed
    orphans   also, and last, runs whose deployment was deleted: the server fails at them until the lease of their slot
              expires, and on SQLite may block for a minute after that (3.9.1)
    until     the time of `time.monotonic` at which to stop early
    returns   the numbers of runs that were set, and of runs that the server refused
    """
    gone = [run for run in of_pool(client, ALIVE) if run.id not in alive and (among is None or run.id in among)]
    there = {each.id for each in deployed(client).values()} if gone else set()
    gone = [run for run in gone if run.deployment_id in there] + [
        run for run in gone if orphans and run.deployment_id not in there
    ]
    crashed = State(type=StateType.CRASHED, name=ABANDONED, message="Its process is gone, and what ran it.")
    done = [time.monotonic() < until and _forced(client, run.id, state or crashed) for run in gone]
    return sum(done), len(done) - sum(done)


def _forced(client: SyncPrefectClient, run_id: UUID, state: State) -> bool:
    """Set a run's state by force; return whether the server did.

    The server fails at a run whose deployment was deleted, sometimes after many seconds; other runs must not suffer.
    """
    try:
        when_not_busy(lambda: client.set_flow_run_state(run_id, state, force=True))
    except TimeoutException:
        return False
    except HTTPStatusError as error:
        if error.response.status_code != codes.INTERNAL_SERVER_ERROR:
            raise
        return False
    except ObjectNotFound:  # deleted in between
        pass
    return True


def discard_late(client: SyncPrefectClient, blueprint: Blueprint) -> int:
    """Delete scheduled runs of inlets that became due while nothing ran; return their number.

    Each would start a process (2 s of CPU) only to find that its window is over.
    """
    ours = {there.id for declared, there in of_blueprint(client, blueprint) if declared.beats}
    late = of_pool(client, {StateType.SCHEDULED}, due_before=datetime.now(UTC) - timedelta(seconds=5))
    old = [run.id for run in late if run.deployment_id in ours and run.auto_scheduled]
    delete_runs(client, old)
    return len(old)


def delete_runs(client: SyncPrefectClient, runs: Sequence[UUID]) -> None:
    """Delete flow runs, as many with one request as the server takes."""
    for first in range(0, len(runs), _BULK):
        body = {"flow_runs": {"id": {"any_": [str(run) for run in runs[first : first + _BULK]]}}}
        client.request("POST", "/flow_runs/bulk_delete", json=body)  # type: ignore[arg-type] # 3.9.1: no method for it


def cancel(
    client: SyncPrefectClient,
    among: Callable[[], Collection[UUID]] | None,
    *,
    processes: Callable[[], Collection[UUID]],
    stop: Callable[[Collection[UUID]], None],
    kill: Callable[[Collection[UUID]], None],
    timeout: float,
) -> int:
    """End the pool's runs and wait for their final states; return the number of runs without one.

    Inlets and outlets with a process here get a signal, at which they end as Cancelled. All other runs are cancelled by their
    worker, which takes the server ten requests for each: of fifty inlets, half did not end within 8 s in that way.

    among       returns the runs that may be cancelled; None: all of the pool
    processes   returns the runs that have a process here; once there are none, the wait is short
    stop        sends the processes of some runs SIGTERM
    kill        kills the processes of some runs at once
    timeout     maximum wait in seconds
    """
    deadline = time.monotonic() + timeout
    asked: set[UUID] = set()
    while True:
        ours, here = among() if among else None, processes()
        alive = [run for run in of_pool(client, ALIVE) if ours is None or run.id in ours]  # including new runs
        # A process ignores SIGTERM while Prefect loads the flow, and would be killed after 30 s (3.9.1). It has no
        # entries in flight yet.
        starting = [run.id for run in alive if run.state_type == StateType.PENDING]
        for run_id in starting:
            _forced(client, run_id, Cancelled(message=_STOPPING))
        kill(starting)
        running = {run.id: run for run in alive if run.state_type == StateType.RUNNING and run.id not in asked}
        asked |= running.keys()
        signalled = {id_ for id_, run in running.items() if id_ in here and _ENDS_AT_A_SIGNAL.intersection(run.tags)}
        stop(signalled)
        for id_ in running.keys() - signalled:
            when_not_busy(lambda id_=id_: client.set_flow_run_state(id_, Cancelling(message=_STOPPING)))
        left = len(alive) - len(starting)
        if not here:
            deadline = min(deadline, time.monotonic() + _BEREFT)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(_POLL)
