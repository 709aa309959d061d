"""`@outlet`: a pipeline function becomes a flow that streams a group's entries through it until it is stopped."""

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, get_args

from prefect import Flow, State, get_run_logger
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Completed, Failed
from streamz import Stream
from tornado.ioloop import IOLoop

from flows.runtime.collector import spare_what_is_loaded
from flows.runtime.comeback import wait_before_beginning
from flows.runtime.parameters import Options, flow_of, takes_options
from flows.runtime.patience import Patience
from flows.runtime.reporting import Watch, await_server
from flows.runtime.stopping import outlast_the_slot, stop_on_signals
from tasks.base.logs import get_logger
from tasks.checks import check_choice, check_group, check_number, check_topic, group_end, group_start, seconds
from tasks.errors import LeaseLostError, PipelineError, SettingsError, UnavailableError
from tasks.group.membership import LEAST_LEASE
from tasks.nodes.from_redis import from_redis
from tasks.nodes.source_run import OnError

__all__ = ["outlet"]

_POLL = 0.2  # seconds in which a signal is heeded

Log = logging.Logger | logging.LoggerAdapter[Any]


@takes_options
def outlet(
    *,
    topics: str | list[str],
    group: str,
    into: str | None = None,
    start_from: str = "beginning",
    until: str | None = None,
    drop_group: bool = False,
    run_for: str | None = None,
    on_error: OnError = "dead_letter",
    max_deliveries: int = 5,
    lease: str = "10s",
    stall_after: str = "2min",
) -> Callable[[Callable[..., Any]], Flow[..., Any]]:
    """Make a flow of a pipeline: a long-running consumer of a group of one or more topics.

    The function is given the source, a streamz `Stream` of `Entry`, and builds its pipeline on it; the stream it
    returns, if any, is the outlet's result. The undecorated function stays callable as the flow's `build`.

    An entry is acknowledged when the pipeline is done with it; what a stopped or killed run had not finished is
    redelivered to the next one, first and in order.

    Args:
        topics: The topic to read, or several.
        group: The consumer group. Each group sees every entry; runs of one group share them.
        into: The topic the results are pushed to. Empty - nowhere.
        start_from: Where a new group begins - beginning, new, an ISO time or an entry id.
        until: Where a replay ends - now, an ISO time or an entry id, itself included. The run then ends by itself, once
            what it read is done with; what windows still hold stays pending. Empty - never.
        drop_group: Delete the group when `until` is reached, with what its windows still hold - for a replay with a
            group of its own, which another one can then use anew. Dead letters stay.
        run_for: How long to run, such as '10min'. Empty - until it is stopped.
        on_error: What becomes of an entry on which the pipeline raises - dead_letter, it is moved to the dead letters
            and the stream goes on; stop, it stays pending and the run fails.
        max_deliveries: How often an entry is delivered, each time because the run died with it, before it is moved to
            the dead letters.
        lease: How long the run may be silent before its entries go to another.
        stall_after: After how long without progress on entries in work the outlet is reported as stalled.

    raises    SettingsError: when the module is imported: a bad name or duration, or a clash of parameters
    """
    given = dict(locals())

    def decorate(function: Callable[..., Any]) -> Flow[..., Any]:
        _check(given)
        if inspect.iscoroutinefunction(function):
            name = function.__name__
            msg = f"outlet {name!r}: expected a function that builds a pipeline, got one to be awaited; write `def {name}`, without async"
            raise SettingsError(msg)

        def run(own: dict[str, Any], options: dict[str, Any]) -> State | None:
            log: Log = get_run_logger() if FlowRunContext.get() else get_logger(__name__)
            with stop_on_signals() as stop:
                outlast_the_slot()
                wait_before_beginning(stop, log)
                _check(options)
                try:
                    return _run(function, own, stop, log, **options)
                except PipelineError as error:
                    if options["on_error"] != "stop" or FlowRunContext.get() is None:
                        raise
                    # Not 'Failed', which would run it again: it was told to stop, and would meet the same entry first.
                    return Failed(name="Stopped", message=str(error))
                finally:
                    if FlowRunContext.get():
                        await_server(log)

        made = flow_of(function, kind="outlet", skip=1, options=Options(outlet, given), run=run)
        made.build = function  # type: ignore[attr-defined]
        return made

    return decorate


def _check(options: dict[str, Any]) -> None:
    topics = options["topics"]
    named = [topics] if isinstance(topics, str) else topics
    if not topics or not isinstance(named, list | tuple) or len({*map(repr, named)}) < len(named):
        msg = f"topics: expected the name of a topic, or a list of different ones, got {topics!r}"
        raise SettingsError(msg)
    check_choice(options["on_error"], get_args(OnError), name="on_error")
    check_number(options["max_deliveries"], least=1, name="max_deliveries")
    for topic in named:
        check_topic(topic, derived=True)
        if topic == options["into"]:
            msg = f"into: {topic!r} is what the outlet reads; its results would come back to it for ever"
            raise SettingsError(msg)
    check_group(options["group"])
    if options["into"]:
        check_topic(options["into"])
    if options["run_for"]:
        seconds(options["run_for"], name="run_for")
    seconds(options["lease"], name="lease", least=LEAST_LEASE)
    seconds(options["stall_after"], name="stall_after")
    group_start(options["start_from"])
    if options["until"]:
        group_end(options["until"])
    elif options["drop_group"]:
        msg = "drop_group: expected `until` with it: a run without an end keeps its place in its group"
        raise SettingsError(msg)


def _run(
    function: Callable[..., Any],
    own: dict[str, Any],
    stop: threading.Event,
    log: Log,
    *,
    topics: str | list[str],
    group: str,
    into: str | None,
    drop_group: bool,
    run_for: str | None,
    stall_after: str,
    **reading: Any,
) -> State | None:
    name = function.__name__
    topics = [topics] if isinstance(topics, str) else topics
    end = time.monotonic() + seconds(run_for) if run_for else float("inf")

    async def stream() -> None:
        # In this loop and thread, the main one: no other run's pipeline can hold this one up.
        source = from_redis(topics, group=group, loop=IOLoop.current(), asynchronous=True, **reading)
        result = function(source, **own)
        if not isinstance(result, Stream | None):
            msg = (
                f"outlet {name!r}: expected the stream of its results or None, if branches end in sinks of their own, got a "
                f"{type(result).__name__}; return the stream before the sink"
            )
            raise SettingsError(msg)
        if result is not None:
            result.sink(watch.show, stream_name="shown in the report")
            if into:
                result.to_redis(into)
        spare_what_is_loaded()
        source.start()
        watch.follow(source)
        outcome = asyncio.wrap_future(source.outcome)
        while not outcome.done():
            if stop.is_set() or time.monotonic() > end:
                source.stop()
            await asyncio.wait([outcome], timeout=_POLL)
        await outcome
        if drop_group and source.is_through and not source.drop_group():
            log.warning("%s: group %r stays, as another consumer uses it", name, group)

    with Watch(name, topics=topics, group=group, stop=stop, stall_after=seconds(stall_after), log=log) as watch:
        _until_its_end(stream, stop, log, Patience(end, log, stop.wait))
    # Prefect shows it with the run's state, and logs it: that line need not be one of ours.
    return (Cancelled if watch.is_cancelled else Completed)(message=f"Stopped in good order: {watch.sentence()}.")


def _until_its_end(
    stream: Callable[[], Coroutine[Any, Any, None]], stop: threading.Event, log: Log, patience: Patience
) -> None:
    """Run the stream until it ends; begin it again when Redis was not there, or took this consumer for dead."""
    while not stop.is_set():
        try:
            asyncio.run(stream())  # a loop for each: what an older one had in its queues goes with it
        except LeaseLostError as error:
            log.warning("%s; the pipeline begins again with what is pending", error)
        except UnavailableError as error:  # at the start; a stream outlasts outages by itself
            if not patience.bears(error):
                raise
        else:
            break
