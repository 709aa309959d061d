"""The streamz source `Stream.engine`: an inlet for scripts and notebooks."""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import redis
from streamz import Stream

from tasks.base.fatal import ends_run
from tasks.base.logs import get_logger
from tasks.checks import seconds
from tasks.nodes.threaded import ThreadedSource
from tasks.pump.failing import WhenFailing
from tasks.pump.run import PumpRun
from tasks.pump.ticks import Beat
from tasks.reservoir import Reservoir
from tasks.reservoir.connection import connect
from tasks.reservoir.entry import Entry
from tasks.reservoir.keep import DEFAULT_BACKLOG, DEFAULT_KEEP, BacklogLimits, Keep, WhenFull
from tasks.reservoir.topic_names import check_topic
from tasks.settings import redis_url

__all__ = ["engine"]

logger = get_logger(__name__)


@Stream.register_api(staticmethod)
class engine(ThreadedSource):  # noqa: N801 - streamz names nodes like functions
    """Call `func` at every tick of the grid, push the entries it returns to `topic`, and emit them.

    topic       where to push
    func        a pump: returns a mapping of fields, a DataFrame, several of those, or None. An async pump is awaited in a
                loop that lasts from a start to a stop
    every       the time between ticks, above zero: '5s', 0.5, timedelta(seconds=1)
    threads     the number of pumps that may run at once; 0 for one pump, in the source's own thread
    timeout     the time limit for one pump; needs threads
    url, client  the reservoir; by default the one from the settings
    keep        limits on the topic's entries, age and size, such as '4000, 1h, 500MB'; None for no limits
    when_full   if a living group has not read entries beyond these limits: 'spill' drops and counts them, 'wait' misses
                ticks until it has read them
    max_failures  after this many failed ticks in a row, the pump is called less often, at least every 30 s, until it works
    when_failing  'fail': the source ends with a PumpError instead
    max_waiting  limits on entries that wait in memory while Redis is away, such as '1000, 10MB'; beyond, ticks are missed
    raises      SettingsError, UnavailableError: at the start; PumpError: as the outcome
    """

    def __init__(
        self,
        topic: str,
        *,
        func: Callable[[], Any],
        every: str | float | timedelta,
        threads: int = 0,
        timeout: str | float | timedelta | None = None,
        url: str | None = None,
        client: redis.Redis | None = None,
        keep: int | str | None = DEFAULT_KEEP,
        when_full: WhenFull = "spill",
        compression: str | None = None,
        max_failures: int = 10,
        when_failing: WhenFailing = "retry",
        max_waiting: int | str = DEFAULT_BACKLOG,
        start: bool = False,
        **kwargs: Any,
    ) -> None:
        self.topic = check_topic(topic)
        self.func = func
        self.every = seconds(every, name="every")
        self._timeout = None if timeout is None else seconds(timeout, name="timeout")
        self._threads = threads
        self._url = url
        self._client = client
        self._keep = None if keep is None else Keep.of(keep, when_full)
        self._compression = compression
        self._max_failures = max_failures
        self._when_failing: WhenFailing = when_failing
        self._max_waiting = BacklogLimits.of(max_waiting)
        self._beat = uuid.uuid4().hex
        super().__init__(start=start, **kwargs)

    def _begin(self) -> PumpRun:
        client = self._client or connect(self._url or redis_url())
        name = getattr(self.func, "__name__", type(self.func).__name__)
        return PumpRun(
            self.func,
            name=name,
            beat=Beat(
                Reservoir(client, compression=self._compression),
                self.topic,
                name,
                every=self.every,
                parameters={"engine": self._beat},  # two functions of one name, such as lambdas, are two beats
                keep=self._keep,
            ),
            threads=self._threads,
            timeout=self._timeout,
            max_failures=self._max_failures,
            when_failing=self._when_failing,
            max_waiting=self._max_waiting,
            on_pushed=self._pushed,
        )

    def _pushed(self, ids: list[str], entries: list[Mapping[str, Any]]) -> None:
        """Emit pushed entries and wait for the pipeline, so that a slow pipeline slows down the pump. The pusher's thread."""
        assert self.loop is not None  # set by Source
        for id_, fields in zip(ids, entries, strict=True):
            asyncio.run_coroutine_threadsafe(
                self._emit_pushed(Entry(fields, topic=self.topic, id=id_)), self.loop.asyncio_loop
            ).result()

    async def _emit_pushed(self, entry: Entry) -> None:
        """Emit a pushed entry. An error of the pipeline does not stop the pump. The graph's thread."""
        try:
            for one in self._emit(entry):
                await one
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError | GeneratorExit) or ends_run(error):
                raise
            logger.exception("the pipeline after %r raised on entry %s; the pump continues", self, entry.id)
