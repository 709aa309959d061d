"""`@inlet`: a pump function becomes a flow that pumps into a topic for a while, or once."""

import functools
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from uuid import UUID

import redis
from prefect import Flow, State, get_run_logger
from prefect.context import FlowRunContext

from flows.runtime.comeback import wait_before_beginning
from flows.runtime.inlet_watch import InletWatch
from flows.runtime.parameters import Options, flow_of, takes_options
from flows.runtime.patience import Patience
from flows.runtime.prefect_api import artifact_key, publish
from flows.runtime.stopping import stop_on_signals
from tasks.base.logs import get_logger
from tasks.checks import check_choice, check_number, check_topic, seconds
from tasks.errors import SettingsError, UnavailableError
from tasks.pump.failing import WhenFailing
from tasks.pump.neighbours import Neighbours
from tasks.pump.run import Pumping
from tasks.pump.summary import Summary
from tasks.pump.ticks import Beat
from tasks.reservoir import Reservoir
from tasks.reservoir.keep import DEFAULT_BUFFER, DEFAULT_KEEP, Buffer, Keep, WhenFull
from tasks.reservoir.retention import Retention

__all__ = ["inlet"]

Compression = Literal["lz4", "zstd"]
MAX_EVERY = 60.0

# What each topic's inlets that were imported so far say it keeps.
_declared: dict[str, dict[str, Keep]] = {}


@takes_options
def inlet(
    *,
    topic: str,
    every: str | None = "1s",
    threads: int = 0,
    timeout: str | None = None,
    window: str = "25min",
    keep: int | str = DEFAULT_KEEP,
    when_full: WhenFull = "spill",
    compression: Compression | None = None,
    max_failures: int = 10,
    when_failing: WhenFailing = "retry",
    max_waiting: int | str = DEFAULT_BUFFER,
) -> Callable[[Callable[..., Any]], Flow[..., Any]]:
    """Make a flow of a pump: what the pump returns at every tick is pushed to a topic.

    The pump returns a mapping (an entry's fields), a DataFrame (an entry of one field, named after the pump), an
    iterable of those (several entries), or None (nothing this time). It may be async: a run awaits all its calls in one
    event loop, so that a session that the first one opened serves the later ones too. The undecorated function stays
    callable as the flow's `pump`.

    A run pumps until the next scheduled one relieves it, without doubling or leaving out a tick, or its window ends.
    While Redis is away, what was pumped waits in memory and is pushed later. A clock that steps back misses ticks until
    it has passed those that were claimed; one that steps forward leaves ticks out. One that is more than 5 minutes ahead
    of Redis' gets no ticks. All of that is counted and logged.

    Args:
        topic: The topic to push to.
        every: The time between ticks, such as '500ms' or '5s', at most 60s. Empty - pump and push once in each run.
        threads: How many pumps may run at once. 0 - one, in the run's own thread.
        timeout: How long one pump may take before its tick counts as failed; an async one is cancelled then. Needs threads.
        window: How long a run pumps if no later run relieves it. Longer than the schedule's interval.
        keep: What the topic keeps - entries, age and size, such as 4000 or 4000, 1h, 500MB. All inlets of a topic say the same.
        when_full: What happens when a group has not read what is beyond that - spill, it is dropped and counted; wait, ticks
            are missed until the group has read on.
        compression: How DataFrames are compressed - lz4, zstd or empty.
        max_failures: After how many failed ticks in a row the pump is called less often, at least every 30 s, until it works.
        when_failing: What comes of the run then - retry, it goes on to its end, and has failed if it pushed nothing at all;
            fail, it fails at once.
        max_waiting: How much may wait in memory while Redis is away - entries and size, such as 1000 or 1000, 10MB. Beyond
            that, ticks are missed.

    raises    SettingsError: when the module is imported: a bad name or duration, or a clash of parameters
    """
    given = dict(locals())

    def decorate(function: Callable[..., Any]) -> Flow[..., Any]:
        _check(given)
        _agree(function.__name__, given)

        def run(own: dict[str, Any], options: dict[str, Any]) -> str | State:
            _check(options)
            return _run(function, own, **options)

        made = flow_of(function, kind="inlet", skip=0, options=Options(inlet, given), run=run)
        made.pump = function  # type: ignore[attr-defined]
        return made

    return decorate


def declared_keep(topic: str) -> Keep | None:
    """Return what the inlets that were imported so far say a topic keeps; None if none pushes to it."""
    return next(iter(_declared.get(topic, {}).values()), None)


def _check(options: dict[str, Any]) -> None:
    check_topic(options["topic"])
    Keep.of(options["keep"], options["when_full"])
    Buffer.of(options["max_waiting"])
    window = seconds(options["window"], name="window")
    check_number(options["threads"], least=0, name="threads")
    check_number(options["max_failures"], least=1, name="max_failures")
    check_choice(options["when_failing"], get_args(WhenFailing), name="when_failing")
    check_choice(options["compression"], (*get_args(Compression), None), name="compression")
    if options["timeout"]:
        seconds(options["timeout"], name="timeout")
    if options["every"] in (None, ""):
        return
    if options["timeout"] and not options["threads"]:
        msg = "timeout: a pump in the run's own thread cannot be left behind; set threads to 1 or more"
        raise SettingsError(msg)
    every = seconds(options["every"], name="every")
    if every > MAX_EVERY:
        msg = f"every: expected at most {MAX_EVERY:g} s between the ticks of a run, got {options['every']!r}; use every=None and a schedule"
        raise SettingsError(msg)
    if window < every:
        msg = f"window: expected at least one tick ({options['every']}) of time, got {options['window']!r}"
        raise SettingsError(msg)


def _agree(inlet: str, options: dict[str, Any]) -> None:
    """Refuse what another inlet in this process says differently of the same topic."""
    topic, keep = options["topic"], Keep.of(options["keep"], options["when_full"])
    declared = _declared.setdefault(topic, {})
    for other, others in declared.items():
        if other != inlet and others != keep:
            msg = (
                f"topic {topic!r}: expected keep and when_full to be the same in all its inlets, got {str(keep)!r} from {inlet!r} "
                f"and {str(others)!r} from {other!r}; make them agree"
            )
            raise SettingsError(msg)
    declared[inlet] = keep


def _run(
    function: Callable[..., Any],
    own: dict[str, Any],
    *,
    topic: str,
    every: str | None,
    threads: int,
    timeout: str | None,
    window: str,
    keep: int | str,
    when_full: WhenFull,
    compression: Compression | None,
    max_failures: int,
    when_failing: WhenFailing,
    max_waiting: int | str,
) -> str | State:
    log = get_run_logger() if FlowRunContext.get() else get_logger(__name__)
    reservoir = _reservoir(compression, Patience(time.monotonic() + (seconds(window) if every else 0), log))
    name, scheduled = function.__name__, _scheduled_start()
    kept = Keep.of(keep, when_full)
    beat = Beat(reservoir, topic, name, every=seconds(every or window), parameters=own, keep=kept)
    retention, inlet_id = Retention(reservoir.client), beat.key.removeprefix("sluice:beat:")
    retention.declare(topic, kept, inlet=inlet_id)
    if not every:
        return _run_once(function, own, reservoir, beat.key, scheduled, topic=topic, keep=kept)
    late = (datetime.now(UTC) - scheduled).total_seconds()
    if late > seconds(window):
        if beat.is_kept(time.time(), within=seconds(window)):
            log.warning(
                "this run was due %.0f s ago, longer than its window of %s: another has its ticks", late, window
            )
            return "too late"
        log.warning(
            "this run was due %.0f s ago, longer than its window of %s; nobody else pumps, so it does", late, window
        )
    with stop_on_signals() as stop:
        wait_before_beginning(stop, log)
        watch = InletWatch(name, stop=stop, log=log)
        pumping = Pumping(
            functools.partial(function, **own),
            name=name,
            beat=beat,
            threads=threads,
            timeout=seconds(timeout) if timeout else None,
            window=seconds(window),
            max_failures=max_failures,
            when_failing=when_failing,
            max_waiting=Buffer.of(max_waiting),
            stop=stop,
            goes_on=watch.goes_on,
            log=log,
        )
        report = _Report(pumping.summary, name=name, topic=topic)
        neighbours = Neighbours(reservoir.client, beat, parameters=own, run=_run_name())

        def look_around() -> None:
            neighbours.announce()
            for sentence in neighbours.found(time.time()):
                log.warning("%s", sentence)

        def every_minute() -> None:
            report.publish()
            with suppress(SettingsError):  # the other inlet of the topic is refused, when it begins
                retention.declare(topic, kept, inlet=inlet_id)
            look_around()

        try:
            with suppress(redis.RedisError):  # its first tick says so
                look_around()
            with watch.every_minute(every_minute):
                pumping.run()
        finally:
            _tell(log, name, topic, pumping.summary)
            report.publish()
            reservoir.client.close()
    return watch.state(str(pumping.summary)) or str(pumping.summary)


class _Report:
    """The artifact of a run of an inlet: what has come of its ticks so far."""

    def __init__(self, summary: Summary, *, name: str, topic: str) -> None:
        self._summary = summary
        self._name, self._topic = name, topic
        self._artifact: UUID | None = None

    def publish(self) -> None:
        self._artifact = publish(
            self._summary.markdown(),
            key=artifact_key("inlet", self._name, self._topic),
            description=f"What became of the ticks of {self._name} -> {self._topic}",
            replaces=self._artifact,
        )


def _tell(log: logging.Logger | logging.LoggerAdapter[Any], name: str, topic: str, summary: Summary) -> None:
    # That there was nothing is no warning: for many a source it is nothing special.
    hint = "; the pump returned no entry at any tick (if it should have, is its `return` missing?)"
    level = logging.WARNING if summary.failing else logging.INFO
    log.log(level, "%s -> %s: %s%s", name, topic, summary, hint if summary.had_nothing else "")


def _reservoir(compression: Compression | None, patience: Patience) -> Reservoir:
    """Return the reservoir; wait for a Redis that is away."""
    while True:
        try:
            return Reservoir.from_url(compression=compression)
        except UnavailableError as error:
            if not patience.bears(error):
                raise


def _run_once(
    function: Callable[..., Any],
    own: dict[str, Any],
    reservoir: Reservoir,
    beat: str,
    scheduled: datetime,
    *,
    topic: str,
    keep: Keep,
) -> str:
    from tasks.pump import one_shot as oneshot  # noqa: PLC0415 - it needs Prefect's tasks, which runs on a grid do without

    entries = oneshot.pump(function, own)
    ids = oneshot.push(reservoir, topic, entries, tick=f"{beat}:{scheduled.isoformat()}", keep=keep)
    return f"{len(ids)} entries pushed"


def _scheduled_start() -> datetime:
    """Return when this run was to start: the same for each of its retries."""
    context = FlowRunContext.get()
    due = context.flow_run.expected_start_time if context and context.flow_run else None
    return due or datetime.now(UTC)


def _run_name() -> str:
    context = FlowRunContext.get()
    return context.flow_run.name if context and context.flow_run else f"of process {os.getpid()}"
