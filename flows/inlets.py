"""`@inlet`: make a flow that pumps into a topic, at the ticks of a grid or once."""

import functools
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import redis
from prefect import Flow, State, get_run_logger
from prefect.context import FlowRunContext
from prefect.states import Cancelled

from flows.runtime.call_parameters import CallParameters
from flows.runtime.comeback import wait_before_beginning
from flows.runtime.declared_keeps import declare_keep
from flows.runtime.declared_limits import declare_limit
from flows.runtime.decorators import decorator_of, overridden
from flows.runtime.inlet_options import InletOptions
from flows.runtime.inlet_report import InletReport, OneShotReport
from flows.runtime.inlet_watch import InletWatch
from flows.runtime.parameters import flow_of
from flows.runtime.patience import Patience
from flows.runtime.stopping import stop_on_signals
from tasks.base.logs import get_logger
from tasks.codec.values import Compression
from tasks.errors import RetryLater, SettingsError, UnavailableError
from tasks.pump.call_limit import CallGate
from tasks.pump.neighbours import Neighbours
from tasks.pump.remembering import Remembering
from tasks.pump.returned import Entries
from tasks.pump.run import PumpRun
from tasks.pump.summary import Summary
from tasks.pump.ticks import Beat
from tasks.reservoir import Reservoir
from tasks.reservoir.keys import inlet_of
from tasks.reservoir.retention import Retention

__all__ = ["inlet"]

Log = logging.Logger | logging.LoggerAdapter[Any]


@decorator_of(InletOptions)
def inlet(pump: Callable[..., Any], options: InletOptions) -> Flow[..., Any]:
    """Make a flow of a pump: whatever the pump returns at a tick is pushed to a topic.

    The pump returns a mapping (the fields of one entry), a DataFrame (an entry with one field, named after the pump), an
    iterable of those (several entries), or None (no entry). It may be async: a run awaits all its calls in one event loop, so
    that later calls can use a session that the first one opened. The undecorated function stays callable as the flow's
    `pump`.

    A parameter of type `Cursor` is no field of the form: each call gets what the inlet remembers, and assigns its new value, which
    is stored together with the entries. Calls of such a pump do not overlap. Nor is a parameter `at: datetime` without a default: each
    call gets the time of its tick.

    A run pumps until the next scheduled run relieves it, without doubling or omitting a tick, or until its window ends.
    During a Redis outage, returned values wait in memory and are pushed later. After a clock steps back, ticks are missed until
    the clock has passed those that were claimed; when it steps forward, the ticks in between are missed. A clock that is more
    than 5 minutes ahead of the clock of Redis gets no ticks. All missed ticks are counted and logged.

    raises    SettingsError: when the module is imported: a bad name or duration, or options or parameters that clash
    """
    declare_keep(options.topic, f"inlet {pump.__name__!r}", options.kept)
    filled = CallParameters.of(pump)
    options.check_remembers(pump.__name__, has_cursor=bool(filled.cursor))
    if limit := options.call_limit(pump.__name__):
        declare_limit(pump.__name__, limit)

    def run(own: dict[str, Any], given: dict[str, Any]) -> str | State:
        return _run(pump, filled, own, overridden(options, given))

    made = flow_of(pump, kind="inlet", hidden=filled.names, options=options, run=run)
    made.pump = pump  # type: ignore[attr-defined]
    return made


def _run(pump: Callable[..., Any], filled: CallParameters, own: dict[str, Any], options: InletOptions) -> str | State:
    log: Log = get_run_logger() if FlowRunContext.get() else get_logger(__name__)
    name, topic, every, window = pump.__name__, options.topic, options.every_seconds, options.window_seconds
    patience = Patience(time.monotonic() + (window if every else 0), log)
    reservoir, scheduled = _reservoir(options.compression, patience), _scheduled_start()
    beat = Beat(
        reservoir,
        topic,
        name,
        every=every or window,
        parameters=own,
        keep=options.kept,
        by=options.by,
        fresh_within=options.fresh_seconds,
        remembers=options.check_remembers(name, has_cursor=bool(filled.cursor)),
    )
    called = own | ({filled.at: scheduled} if filled.at and not every else {})
    remembering = Remembering.of(
        functools.partial(pump, **called),
        beat.cursor,
        name=name,
        parameter=filled.cursor,
        start=filled.start,
        only_if_changed=options.only_if_changed,
    )
    gate = CallGate(reservoir.client, options.call_limit(name), inlet=inlet_of(beat.key))
    retention, inlet_id = Retention(reservoir.client), inlet_of(beat.key)
    retention.declare(topic, options.kept, inlet=inlet_id, by=options.by)
    if not every:
        with OneShotReport(beat, name=name, log=log) as once:
            once.pushed = _run_once(
                pump, called, beat, scheduled=scheduled, options=options, gate=gate, remembering=remembering
            )
        return f"{len(once.pushed)} entries pushed"
    late = (datetime.now(UTC) - scheduled).total_seconds()
    if late > window:
        is_kept = beat.is_kept(time.time(), within=window)
        log.warning(
            "this run was due %.0f s ago, longer than its window of %s; %s",
            late, options.window, "another run pumps, so this one ends" if is_kept else "no other run pumps, so this one does",
        )  # fmt: skip
        if is_kept:
            return "too late"
    with stop_on_signals() as stop:
        wait_before_beginning(stop, log)
        watch = InletWatch(name, stop=stop, log=log)
        pumping = PumpRun(
            functools.partial(pump, **own),
            name=name,
            beat=beat,
            threads=options.threads,
            timeout=options.timeout_seconds,
            window=window,
            max_failures=options.max_failures,
            when_failing=options.when_failing,
            max_waiting=options.backlog,
            remembering=remembering,
            gate=gate,
            catch_up=options.catch_up_seconds,
            at=filled.at,
            stop=stop,
            goes_on=watch.goes_on,
            log=log,
        )
        report = InletReport(pumping, beat, name=name, log=log)
        neighbours = Neighbours(reservoir.client, beat, parameters=own, run=_run_name())

        def look_around() -> None:
            neighbours.announce()
            for sentence in neighbours.found(time.time()):
                log.warning("%s", sentence)

        def every_minute() -> None:
            report.every_minute()
            with suppress(SettingsError):  # the topic's other inlet is refused when its run begins
                retention.declare(topic, options.kept, inlet=inlet_id, by=options.by)
            look_around()

        try:
            with suppress(redis.RedisError):  # the first tick reports it
                look_around()
            with watch.every_minute(every_minute):
                pumping.run()
        finally:
            summary = pumping.summary
            _log_summary(log, name, topic, summary)
            report.publish()
            if watch.why is not None:
                with suppress(redis.RedisError):
                    beat.retire()
            reservoir.client.close()
    if stop.is_signalled and watch.why is None:
        return Cancelled(message=f"Stopped in good order. {summary}")
    return watch.state(str(summary)) or str(summary)


def _log_summary(log: Log, name: str, topic: str, summary: Summary) -> None:
    # Ticks without an entry deserve no warning: for many sources they are normal.
    hint = "; the pump returned no entry at any tick (if it should have, is its `return` missing?)"
    level = logging.WARNING if summary.failing else logging.INFO
    log.log(level, "%s -> %s: %s%s", name, topic, summary, hint if summary.had_nothing else "")


def _reservoir(compression: Compression | None, patience: Patience) -> Reservoir:
    """Return the reservoir, once Redis answers."""
    while True:
        try:
            return Reservoir.from_url(compression=compression)
        except UnavailableError as error:
            if not patience.allows_retry(error):
                raise


def _run_once(
    pump: Callable[..., Any],
    own: dict[str, Any],
    beat: Beat,
    *,
    scheduled: datetime,
    options: InletOptions,
    gate: CallGate,
    remembering: Remembering | None,
) -> list[str]:
    from tasks.pump import one_shot  # noqa: PLC0415 - imports Prefect's tasks, which runs on a grid do without

    totals = {"failed": 1}
    memory = one_shot.Recalled(remembering, beat.cursor) if remembering and beat.cursor else None
    try:
        entries = _called_once(lambda: one_shot.pump(pump, own, memory), gate, longest=options.window_seconds)
        tick = f"{beat.key}:{scheduled.isoformat()}"
        ids = one_shot.push(
            beat.reservoir, beat.topic, entries, tick=tick, keep=options.kept, by=options.by, memory=memory
        )
        totals = {"pushed": 1, "entries": len(ids)} if ids else {"nothing": 1}
    finally:
        with suppress(redis.RedisError):  # the run's state contains it as well
            beat.count(totals, run=round(scheduled.timestamp() * 1_000_000))
    return ids


def _called_once(call: Callable[[], Entries], gate: CallGate, *, longest: float) -> Entries:
    """Return the entries of a one-shot run, which waits for its limit, and for as long as its source asks.

    longest   seconds that it waits in all
    raises    RetryLater: it would have to wait longer
    """
    end = time.monotonic() + longest
    while True:
        if wait := gate.take():
            if time.monotonic() + wait > end:
                raise RetryLater(wait)
            time.sleep(wait)
            continue
        try:
            return call()
        except RetryLater as later:
            if time.monotonic() + later.seconds > end:
                raise
            gate.pause(later.seconds)


def _scheduled_start() -> datetime:
    """Return the time that this run was scheduled for, which is the same for each of its retries."""
    context = FlowRunContext.get()
    due = context.flow_run.expected_start_time if context and context.flow_run else None
    return due or datetime.now(UTC)


def _run_name() -> str:
    context = FlowRunContext.get()
    return context.flow_run.name if context and context.flow_run else f"of process {os.getpid()}"
