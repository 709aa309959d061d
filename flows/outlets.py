"""`@outlet`: make a flow that streams the entries of a consumer group through a pipeline until it is stopped."""

import asyncio
import functools
import inspect
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from prefect import Flow, State, get_run_logger
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Completed, Failed

from flows.runtime.comeback import wait_before_beginning
from flows.runtime.declared_keeps import declare_keep
from flows.runtime.decorators import decorator_of, overridden
from flows.runtime.outlet_options import OutletOptions
from flows.runtime.outlet_stream import OutletStream
from flows.runtime.outlet_watch import OutletWatch
from flows.runtime.parameters import flow_of
from flows.runtime.patience import Patience
from flows.runtime.prefect_api import await_server
from flows.runtime.result_topic import ResultTopic
from flows.runtime.stopping import Stop, outlast_the_slot, stop_on_signals
from tasks.base.logs import get_logger
from tasks.errors import LeaseLostError, PipelineError, SettingsError, StateConflictError, UnavailableError
from tasks.nodes.from_redis import from_redis
from tasks.remote.dask_client import connected

__all__ = ["outlet"]

Log = logging.Logger | logging.LoggerAdapter[Any]


@decorator_of(OutletOptions)
def outlet(build: Callable[..., Any], options: OutletOptions) -> Flow[..., Any]:
    """Make a flow of a pipeline: a long-running consumer in a group of one or more topics.

    The function takes the source, a streamz `Stream` of `Entry`, and builds its pipeline on it. The stream that it returns, if
    any, carries the outlet's results. The undecorated function stays callable as the flow's `build`.

    An entry is acknowledged when the pipeline is done with it. Entries that a stopped or killed run had not finished are
    redelivered to the next run, first and in order.

    raises    SettingsError: when the module is imported: a bad name or duration, or options or parameters that clash
    """
    if inspect.iscoroutinefunction(build):
        name = build.__name__
        msg = f"outlet {name!r}: expected a function that builds a pipeline, got an async one; write `def {name}`, without async"
        raise SettingsError(msg)
    if options.into:
        declare_keep(options.into, f"outlet {build.__name__!r}", options.into_kept)

    def run(own: dict[str, Any], given: dict[str, Any]) -> State | None:
        log: Log = get_run_logger() if FlowRunContext.get() else get_logger(__name__)
        with stop_on_signals() as stop:
            outlast_the_slot()
            wait_before_beginning(stop, log)
            of_run = overridden(options, given)
            try:
                return _run(functools.partial(build, **own), build.__name__, of_run, stop, log)
            except PipelineError as error:
                if of_run.on_error != "stop" or FlowRunContext.get() is None:
                    raise
                # Not 'Failed', which would bring another run: that one would meet the same entry first.
                return Failed(name="Stopped", message=str(error))
            finally:
                if FlowRunContext.get():
                    await_server(log)

    made = flow_of(build, kind="outlet", skip=1, options=options, run=run)
    made.build = build  # type: ignore[attr-defined]
    return made


def _run(build: Callable[[from_redis], Any], name: str, options: OutletOptions, stop: Stop, log: Log) -> State | None:
    results = ResultTopic(options.into or "", options.into_kept, group=options.group, by=options.into_by)
    end = float("inf") if options.run_for_seconds is None else time.monotonic() + options.run_for_seconds

    with OutletWatch(
        name,
        topics=options.topic_names,
        group=options.group,
        results=results,
        stop=stop,
        stall_after=options.stall_after_seconds,
        log=log,
    ) as watch:
        stream = OutletStream(build, name, options, results=results, watch=watch, stop=stop, end=end, log=log)
        _until_its_end(stream.run, options.dask or None, stop, log, Patience(end, log, stop.wait))
    # Prefect shows the message with the run's state, and logs it: so the last line is not logged here as well.
    is_cancelled = watch.is_cancelled or stop.is_signalled
    return (Cancelled if is_cancelled else Completed)(message=f"Stopped in good order: {watch.sentence()}.")


def _until_its_end(
    stream: Callable[[], Coroutine[Any, Any, None]],
    dask: str | None,
    stop: threading.Event,
    log: Log,
    patience: Patience,
) -> None:
    """Run the stream until it ends; start it again when Redis or Dask was unavailable, or the lease or state was lost."""
    while not stop.is_set():
        try:
            with connected(dask):
                asyncio.run(stream())  # a loop for each try, so that tasks and queues of an earlier one end with it
        except (LeaseLostError, StateConflictError) as error:
            log.warning("%s; the pipeline begins again with the pending entries", error)
        except UnavailableError as error:  # at the start; a running stream outlasts outages by itself
            if not patience.allows_retry(error):
                raise
        else:
            break
