"""The runs of one worker: a limit on runs that are starting, and one poll for all cancellations."""

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from httpx import HTTPError
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.logging import get_logger
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

__all__ = ["Cancellations", "Observer", "Starts"]

_LOOK = 5.0  # seconds between two polls for runs to cancel
_PATIENCE = 10.0  # timeout of a poll, in seconds
_LONGEST = 60.0  # seconds after which a start counts as finished: not every command reports it

logger = get_logger("worker.cancellations")


class Cancellations:
    """Polls which runs of a worker to cancel, with one request for all of them.

    Prefect opens a websocket for each run (3.9.1), and misses all cancellations after its server was away for a minute.
    Here, a failed poll is repeated as long as the worker has runs.
    """

    def __init__(self) -> None:
        self._observers: dict[UUID, list[Observer]] = {}
        self._notified: set[tuple[UUID, int]] = set()
        self._entered = 0
        self._task: asyncio.Task[None] | None = None

    def add(self, run: UUID, observer: "Observer") -> None:
        """Notify `observer` once if the run is to be cancelled."""
        observers = self._observers.setdefault(run, [])
        if observer not in observers:
            observers.append(observer)

    def remove(self, run: UUID, observer: "Observer") -> bool:
        """Stop notifying `observer`; return whether no other observer has this run."""
        self._notified.discard((run, id(observer)))
        observers = self._observers.get(run, [])
        if observer in observers:
            observers.remove(observer)
        if not observers:
            self._observers.pop(run, None)
        return not observers

    def enter(self) -> None:
        """Start polling, unless it runs already."""
        self._entered += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())

    def leave(self) -> None:
        """Stop polling after the last one has left."""
        self._entered -= 1
        if not self._entered and self._task:
            self._task.cancel()
            self._task = None

    async def _watch(self) -> None:
        failed = False
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            async with get_client(httpx_settings={"timeout": _PATIENCE}) as client:
                while True:
                    await asyncio.sleep(_LOOK)
                    try:
                        await self.look(client)
                    except HTTPError as error:
                        if not failed:
                            logger.warning("no run can be cancelled until the server answers: %s", type(error).__name__)
                        failed = True
                    except Exception:  # the loop must go on, or no run of this worker could be cancelled
                        logger.exception("a poll for runs to cancel failed")
                    else:
                        failed = False

    async def look(self, client: PrefectClient) -> None:
        """Poll once, and notify the observers of runs to cancel."""
        pending = [
            run for run, observers in self._observers.items() if any(not self._is_notified(run, o) for o in observers)
        ]
        if not pending:
            return
        wanted = {"id": {"any_": pending}, "state": {"type": {"any_": [StateType.CANCELLING]}}}
        for run in await client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted)):
            for observer in list(self._observers.get(run.id, [])):
                if not self._is_notified(run.id, observer):
                    self._notified.add((run.id, id(observer)))
                    observer.on_cancelling(run.id)

    def _is_notified(self, run: UUID, observer: "Observer") -> bool:
        return (run, id(observer)) in self._notified


class Starts:
    """Counts runs whose processes are still importing, and limits them, because each takes a core.

    A run's process deletes its file in `folder` once it has imported its flow.
    """

    def __init__(
        self, folder: Path, *, at_once: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.at_once = at_once or len(
            os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0] * (os.cpu_count() or 1)
        )
        self._folder = folder
        self._clock = clock
        self._since: dict[UUID, float] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.iterdir():
            left.unlink()

    def begin(self, run: UUID) -> None:
        """Start counting a run."""
        (self._folder / str(run)).touch()
        self._since[run] = self._clock()

    def end(self, run: UUID) -> None:
        """Stop counting a run."""
        if self._since.pop(run, None) is not None:
            (self._folder / str(run)).unlink(missing_ok=True)

    def free(self) -> int:
        """Return the number of further runs that may start now."""
        for run, since in list(self._since.items()):
            if self._clock() - since > _LONGEST or not (self._folder / str(run)).exists():
                self.end(run)
        return max(0, self.at_once - len(self._since))

    def choose(self, due: Iterable[UUID]) -> set[UUID]:
        """Return the first of these runs, as many as may start now, and count them."""
        chosen = set(list(due)[: self.free()])
        for run in chosen:
            self.begin(run)
        return chosen


class Observer:
    """Replaces Prefect's `FlowRunCancellingObserver`; all observers of a worker share one poll."""

    cancellations: Cancellations
    starts: Starts

    def __init__(self, on_cancelling: Callable[[UUID], Any], **_: Any) -> None:
        self.on_cancelling = on_cancelling

    def add_in_flight_flow_run_id(self, flow_run_id: UUID) -> None:
        """Start watching a run."""
        self.cancellations.add(flow_run_id, self)

    def remove_in_flight_flow_run_id(self, flow_run_id: UUID) -> None:
        """Stop watching a run; without another observer, it has ended or never started."""
        if self.cancellations.remove(flow_run_id, self):
            self.starts.end(flow_run_id)

    async def __aenter__(self) -> Self:
        self.cancellations.enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancellations.leave()
