"""Run `prefect worker start` for many runs: one poll for all of them, and no more simultaneous starts than cores.

Prefect's process worker holds two websockets for each run (3.9.1), one of them for an event that no page shows. It starts
all due runs at once, and each takes 2 s of CPU for its imports; after a server outage, or with dozens of inlets, that
overloads the machine for minutes. It also stores a state and two events for each run that only concern the worker, and
lines in the run's log that name the worker. This module leaves these out, and forks runs without a command beside each.
"""

import functools
import logging
import sys
from typing import TYPE_CHECKING, Any

from tasks.base.state_folder import state_dir

if TYPE_CHECKING:
    from prefect.workers.process import ProcessWorker

__all__ = ["lighten", "main"]


def lighten() -> None:
    """Patch Prefect's process worker in this process."""
    from prefect.events.clients import NullEventsClient  # noqa: PLC0415 - takes seconds, which only a worker needs
    from prefect.runner import _flow_run_executor as executor  # noqa: PLC0415
    from prefect.runner import _starter_engine as starter  # noqa: PLC0415
    from prefect.workers import base  # noqa: PLC0415
    from prefect.workers.process import ProcessWorker  # noqa: PLC0415

    from deployments.processes.direct import run_process  # noqa: PLC0415
    from deployments.processes.in_flight import Cancellations, Observer, Starts  # noqa: PLC0415
    from flows.runtime.engine import STARTING  # noqa: PLC0415

    Observer.cancellations, Observer.starts = Cancellations(), Starts(state_dir() / STARTING)
    executor.FlowRunCancellingObserver = base.FlowRunCancellingObserver = Observer  # type: ignore[assignment]
    executor.EventEmitter = functools.partial(executor.EventEmitter, get_events_client=NullEventsClient)  # type: ignore[assignment]

    starter.run_process = functools.partial(run_process, run=starter.run_process)  # type: ignore[assignment]

    submit = ProcessWorker._submit_scheduled_flow_runs

    async def submit_some(self: "ProcessWorker", flow_run_response: list[Any]) -> list[Any]:
        new = [each.flow_run.id for each in flow_run_response if each.flow_run.id not in self._submitting_flow_run_ids]
        chosen = Observer.starts.choose(new)
        return await submit(self, [each for each in flow_run_response if each.flow_run.id in chosen])

    async def say_nothing(*_: Any) -> None: ...

    ProcessWorker._submit_scheduled_flow_runs = submit_some
    ProcessWorker._propose_submitting_state = say_nothing
    ProcessWorker._emit_flow_run_submitted_event = lambda *_: None  # type: ignore[assignment]
    logging.getLogger("prefect.flow_runs.worker").setLevel(logging.WARNING)


def main() -> None:
    """Run Prefect's worker with the arguments of this process."""
    from prefect.cli import app  # noqa: PLC0415 - as above

    lighten()
    sys.argv = ["prefect", "--no-prompt", "worker", "start", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    main()
