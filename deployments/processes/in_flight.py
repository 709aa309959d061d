"""The runs of one worker: which are still starting, and which are to be cancelled."""

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

_LOOK = 2.0  # seconds between two looks for runs that are to be cancelled
_PATIENCE = 10.0  # seconds a look may take
_LONGEST = 60.0  # seconds after which a start counts as over: its command may be one that does not report it

logger = get_logger("worker.cancellations")


class Cancellations:
    """Finds the runs that are to be cancelled, for all runs of a worker in one request.

    Prefect opens a websocket for each run to hear of it (3.9.1), and hears no more of it once its server was away for
    a minute. A look that fails here is repeated for as long as there are runs.
    """

    def __init__(self) -> None:
        self._observers: dict[UUID, list[Observer]] = {}
        self._told: set[tuple[UUID, int]] = set()
        self._entered = 0
        self._task: asyncio.Task[None] | None = None

    def add(self, run: UUID, observer: "Observer") -> None:
        """Tell `observer` once if the run is to be cancelled."""
        observers = self._observers.setdefault(run, [])
        if observer not in observers:
            observers.append(observer)

    def remove(self, run: UUID, observer: "Observer") -> bool:
        """Forget that; return whether no other observer has this run."""
        self._told.discard((run, id(observer)))
        observers = self._observers.get(run, [])
        if observer in observers:
            observers.remove(observer)
        if not observers:
            self._observers.pop(run, None)
        return not observers

    def enter(self) -> None:
        """Begin to look, if nothing does."""
        self._entered += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())

    def leave(self) -> None:
        """Look no more, if this was the last to leave."""
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
                    except Exception:  # or no run of this worker could be cancelled any more
                        logger.exception("a look for runs to cancel failed")
                    else:
                        failed = False

    async def look(self, client: PrefectClient) -> None:
        """Ask once, and tell the observers of the runs that are to be cancelled."""
        pending = [
            run for run, observers in self._observers.items() if any(not self._is_told(run, o) for o in observers)
        ]
        if not pending:
            return
        wanted = {"id": {"any_": pending}, "state": {"type": {"any_": [StateType.CANCELLING]}}}
        for run in await client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted)):
            for observer in list(self._observers.get(run.id, [])):
                if not self._is_told(run.id, observer):
                    self._told.add((run.id, id(observer)))
                    observer.on_cancelling(run.id)

    def _is_told(self, run: UUID, observer: "Observer") -> bool:
        return (run, id(observer)) in self._told


class Starts:
    """Counts the runs whose processes are still importing: what takes a core each, and is bounded for that.

    A run's process removes its file from `folder` when that is done.
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
        """Count a run from now on."""
        (self._folder / str(run)).touch()
        self._since[run] = self._clock()

    def end(self, run: UUID) -> None:
        """Count it no more."""
        if self._since.pop(run, None) is not None:
            (self._folder / str(run)).unlink(missing_ok=True)

    def free(self) -> int:
        """Return how many more runs may start now."""
        for run, since in list(self._since.items()):
            if self._clock() - since > _LONGEST or not (self._folder / str(run)).exists():
                self.end(run)
        return max(0, self.at_once - len(self._since))

    def choose(self, due: Iterable[UUID]) -> set[UUID]:
        """Return those of the runs, the first ones, that may start now, and count them."""
        chosen = set(list(due)[: self.free()])
        for run in chosen:
            self.begin(run)
        return chosen


class Observer:
    """Takes the place of Prefect's `FlowRunCancellingObserver`, with all others of a worker looking at once."""

    cancellations: Cancellations
    starts: Starts

    def __init__(self, on_cancelling: Callable[[UUID], Any], **_: Any) -> None:
        self.on_cancelling = on_cancelling

    def add_in_flight_flow_run_id(self, flow_run_id: UUID) -> None:
        """Watch a run."""
        self.cancellations.add(flow_run_id, self)

    def remove_in_flight_flow_run_id(self, flow_run_id: UUID) -> None:
        """Watch it no more; if nothing else does, it has ended or never began."""
        if self.cancellations.remove(flow_run_id, self):
            self.starts.end(flow_run_id)

    async def __aenter__(self) -> Self:
        self.cancellations.enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancellations.leave()
