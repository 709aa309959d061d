"""`prefect worker start` for many runs: with one connection for all of them, and no more starts at once than cores.

Prefect's process worker holds two websockets for each run (3.9.1), one of them for an event that nothing shows, and
starts all runs that are due at once, each of which then takes 2 s of CPU to import what it needs. After an outage of
the server, or with dozens of inlets, that is more than the machine can do for minutes. It also stores a state and
two events for each run that only it takes part in, and lines in the run's log that name the worker: these are left out.
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
    """Change Prefect's process worker in this process."""
    from prefect.events.clients import NullEventsClient  # noqa: PLC0415 - seconds, which only a worker takes
    from prefect.runner import _flow_run_executor as executor  # noqa: PLC0415
    from prefect.workers import base  # noqa: PLC0415
    from prefect.workers.process import ProcessWorker  # noqa: PLC0415

    from deployments.processes.in_flight import Cancellations, Observer, Starts  # noqa: PLC0415
    from flows.runtime.engine import STARTING  # noqa: PLC0415

    Observer.cancellations, Observer.starts = Cancellations(), Starts(state_dir() / STARTING)
    executor.FlowRunCancellingObserver = base.FlowRunCancellingObserver = Observer  # type: ignore[assignment]
    executor.EventEmitter = functools.partial(executor.EventEmitter, get_events_client=NullEventsClient)  # type: ignore[assignment]

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
    """Run Prefect's worker with the arguments given."""
    from prefect.cli import app  # noqa: PLC0415 - as above

    lighten()
    sys.argv = ["prefect", "--no-prompt", "worker", "start", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    main()
