"""Stops a run at a signal, with time to finish work under way, and keeps other events from stopping it."""

import atexit
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from uuid import UUID

from prefect._internal.concurrency.cancellation import CancelledError, shield
from prefect.context import FlowRunContext
from prefect.exceptions import ExternalSignal
from prefect.states import Cancelled
from rich.console import Console

from flows.runtime.prefect_api import impatient_client
from tasks.base.fatal import let_end_run

__all__ = [
    "Stop",
    "is_in_a_process_of_its_own",
    "leave_no_run_cancelling",
    "outlast_the_slot",
    "outlast_the_worker",
    "stop_on_signals",
]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_RUN_ID = "PREFECT__FLOW_RUN_ID"  # set in every process that is started for one run

# Prefect raises these anywhere in a run: at a signal, and at the end of its `timeout_seconds`.
let_end_run(ExternalSignal, CancelledError)

# Created once per process, and kept to its end.
_promises = []
_shields = []


class Stop(threading.Event):
    """Set once the run is to end.

    is_signalled   whether a signal has set it in a process that was started for the run: the run then ends as Cancelled
    """

    is_signalled = False


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Give an event that SIGTERM (a cancel in the Prefect UI) and SIGINT set, instead of ending the run at once.

    Prefect's own handler raises wherever the run is; this one lets it drain and return. Outside the main thread, where no
    handler can be set, no signal sets the event.

    In a process that was started for the run, the handler stays once the run is to end: a run can see in its state that it is
    cancelled before the worker's signal arrives, and Prefect's handler would take that signal for a crash, which brings
    another run (3.9.1). Prefect removes the handler after it has reported the end.
    """
    stop = Stop()

    def handle(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the handler's signature
        stop.is_signalled = is_in_a_process_of_its_own()  # elsewhere, a Cancelled run would raise in its caller
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.signal(s, handle) for s in _SIGNALS}
    try:
        yield stop
    finally:
        if not (stop.is_set() and is_in_a_process_of_its_own()):
            for s, handler in before.items():
                signal.signal(s, handler)


def is_in_a_process_of_its_own() -> bool:
    """Return whether this process was started for a run, and ends with it."""
    return bool(os.environ.get(_RUN_ID))


def leave_no_run_cancelling() -> None:
    """Set this process' run to Cancelled at its end, if a cancel is under way.

    Prefect 3.9.1 does not if the run was still starting: it never calls the flow, and the run stays Cancelling for ever.
    """
    if is_in_a_process_of_its_own() and not _promises:
        _promises.append(atexit.register(_end_cancelled))


def _end_cancelled() -> None:
    run = UUID(os.environ[_RUN_ID])
    with suppress(Exception), impatient_client() as client:
        state = client.read_flow_run(run).state
        if state and state.is_cancelling():
            client.set_flow_run_state(run, Cancelled(message="Its process has ended."), force=True)


def outlast_the_slot() -> None:
    """Let this process' run continue when it loses its concurrency slot.

    Prefect 3.9.1 raises in a run whose slot's lease could not be renewed: after an outage of the server of three minutes,
    sometimes of less. A stream need not stop for that.
    """
    context = FlowRunContext.get()
    state = context.flow_run.state if context and context.flow_run else None
    if state and state.state_details.deployment_concurrency_lease_id and not _shields:
        _shields.append(shield())  # never left: the exception waits for that
        _shields[0].__enter__()


def outlast_the_worker() -> None:
    """Let this process' run continue when its worker was killed, and its output pipe is broken.

    rich, with which Prefect 3.9.1 prints log records, ends the thread that logs then: for example the one that reads the topics,
    or the one that watches for a cancel.
    """
    if is_in_a_process_of_its_own():
        Console.on_broken_pipe = _print_no_more


def _print_no_more(console: Console) -> None:
    console.quiet = True
