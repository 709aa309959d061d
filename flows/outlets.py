"""`@outlet`: a pipeline function becomes a flow that streams a group's entries through it until it is stopped."""

import asyncio
import logging
import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pandas as pd
from prefect import Flow, State, get_run_logger
from prefect.context import FlowRunContext
from prefect.states import Failed
from streamz import Stream
from tornado.ioloop import IOLoop

from flows.parameters import Options, flow_of
from flows.stopping import stop_on_signals
from tasks.errors import LeaseLostError, PipelineError, SettingsError
from tasks.reading import OnError
from tasks.settings import check_group, check_topic, group_start, seconds
from tasks.source import from_redis

__all__ = ["outlet"]

_POLL = 0.2  # seconds in which a signal is heeded
_WORD = 60.0  # seconds between the results that are logged
_SHOWN_ROWS = 10


def outlet(
    *,
    topics: str | list[str],
    group: str,
    into: str | None = None,
    start_from: str = "beginning",
    run_for: str | None = None,
    on_error: OnError = "dead_letter",
    max_deliveries: int = 5,
    lease: str = "10s",
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
        run_for: How long to run, such as '10min'. Empty - until it is stopped.
        on_error: What becomes of an entry on which the pipeline raises - dead_letter, it is moved to the dead letters
            and the stream goes on; stop, it stays pending and the run fails.
        max_deliveries: How often an entry is delivered, each time because the run died with it, before it is moved to
            the dead letters.
        lease: How long the run may be silent before its entries go to another.

    raises    SettingsError: when the module is imported: a bad name or duration, or a clash of parameters
    """
    given = dict(locals())

    def decorate(function: Callable[..., Any]) -> Flow[..., Any]:
        _check(given)

        def run(own: dict[str, Any], options: dict[str, Any]) -> State | None:
            _check(options)
            try:
                _run(function, own, **options)
            except PipelineError as error:
                if options["on_error"] != "stop" or FlowRunContext.get() is None:
                    raise
                # Not 'Failed', which would run it again: it was told to stop, and would meet the same entry first.
                return Failed(name="Stopped", message=str(error))
            return None

        made = flow_of(function, kind="outlet", skip=1, options=Options(outlet, given), run=run)
        made.build = function  # type: ignore[attr-defined]
        return made

    return decorate


def _check(options: dict[str, Any]) -> None:
    topics = options["topics"]
    for topic in [topics] if isinstance(topics, str) else topics:
        check_topic(topic, derived=True)
        if topic == options["into"]:
            msg = f"into: {topic!r} is what the outlet reads; its results would come back to it for ever"
            raise SettingsError(msg)
    check_group(options["group"])
    if options["into"]:
        check_topic(options["into"])
    if options["run_for"]:
        seconds(options["run_for"], name="run_for")
    seconds(options["lease"], name="lease")
    group_start(options["start_from"])


def _run(
    function: Callable[..., Any],
    own: dict[str, Any],
    *,
    topics: str | list[str],
    group: str,
    into: str | None,
    start_from: str,
    run_for: str | None,
    on_error: OnError,
    max_deliveries: int,
    lease: str,
) -> None:
    name = function.__name__
    log = get_run_logger() if FlowRunContext.get() else logging.getLogger(__name__)

    async def stream(stop: threading.Event) -> None:
        # In this loop and thread, the main one: no other run's pipeline can hold this one up.
        source = from_redis(
            topics,
            group=group,
            start_from=start_from,
            on_error=on_error,
            max_deliveries=max_deliveries,
            lease=lease,
            loop=IOLoop.current(),
            asynchronous=True,
        )
        result: Stream | None = function(source, **own)
        latest: deque[Any] = deque(maxlen=1)
        if result is not None:
            result.sink(latest.append)
            if into:
                result.to_redis(into)
        source.start()
        log.info("%s: group %r reads %s", name, group, topics)
        outcome = asyncio.wrap_future(source.outcome)
        next_word = time.monotonic()
        while not outcome.done():
            if stop.is_set() or (now := time.monotonic()) > end:
                source.stop()
            elif latest and now >= next_word:
                log.info("%s: the latest result\n%s", name, shown(latest.pop()))
                next_word = now + _WORD
            await asyncio.wait([outcome], timeout=_POLL)
        await outcome

    end = time.monotonic() + seconds(run_for) if run_for else float("inf")
    with stop_on_signals() as stop:
        while True:
            try:
                asyncio.run(stream(stop))  # a loop for each: what an older one had in its queues goes with it
            except LeaseLostError as error:
                log.warning("%s; the pipeline begins again with what is pending", error)
                if not stop.is_set():
                    continue
            break
    log.info("%s: group %r stopped", name, group)


def shown(value: Any) -> str:
    """Return a result as a few lines of text."""
    if isinstance(value, pd.DataFrame):
        return value.head(_SHOWN_ROWS).to_string(max_cols=12) + f"\n[{len(value)} rows x {len(value.columns)} columns]"
    return textwrap.shorten(repr(value), 1_000)
