"""The streamz source `Stream.engine`: an inlet in a script or a notebook."""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import redis
from streamz import Stream

from tasks.base.fatal import ends_run
from tasks.base.logs import get_logger
from tasks.checks import check_topic, seconds
from tasks.nodes.threaded import ThreadedSource
from tasks.pump.failing import WhenFailing
from tasks.pump.run import PumpRun
from tasks.pump.ticks import Beat
from tasks.reservoir import Reservoir
from tasks.reservoir.connection import connect
from tasks.reservoir.entry import Entry
from tasks.reservoir.keep import DEFAULT_BUFFER, DEFAULT_KEEP, Buffer, Keep, WhenFull
from tasks.settings import redis_url

__all__ = ["engine"]

logger = get_logger(__name__)


@Stream.register_api(staticmethod)
class engine(ThreadedSource):  # noqa: N801 - streamz names nodes like functions
    """Call `func` at every tick of the grid, push what it returns to `topic`, and emit what was pushed.

    topic       where to push
    func        a pump: returns a mapping of fields, a DataFrame, several of those, or None; may be async, and is awaited in a loop
                that lasts from a start to a stop
    every       the time between ticks, above zero: '5s', 0.5, timedelta(seconds=1)
    threads     how many pumps may run at once; 0 for one, in the source's own thread
    timeout     how long one pump may take; needs threads
    url, client  the reservoir; by default what the settings name
    keep        what of the topic is kept: entries, age and size, such as '4000, 1h, 500MB'; None for everything
    when_full   what happens when a live group has not read what is beyond that: 'spill', it is dropped and counted, or
                'wait', ticks are missed until it has
    max_failures  after how many failed ticks in a row the pump is called less often, at least every 30 s, until it works
    when_failing  'fail': then the source ends with that instead, a PumpError
    max_waiting  how much may wait in memory while Redis is away, such as '1000, 10MB'; beyond, ticks are missed
    raises      SettingsError, UnavailableError, at the start; PumpError, as the outcome
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
        max_waiting: int | str = DEFAULT_BUFFER,
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
        self._max_waiting = Buffer.of(max_waiting)
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
                parameters={"engine": self._beat},  # two functions of one name, as two lambdas, are two beats
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
        """Emit what was pushed and wait until the pipeline has taken it, so that a slow one slows the pump."""
        assert self.loop is not None  # Source sees to it
        for id_, fields in zip(ids, entries, strict=True):
            asyncio.run_coroutine_threadsafe(
                self._emit_pushed(Entry(fields, topic=self.topic, id=id_)), self.loop.asyncio_loop
            ).result()

    async def _emit_pushed(self, entry: Entry) -> None:
        """Show the pipeline what was pushed. What it makes of it is no concern of the pump's."""
        try:
            for one in self._emit(entry):
                await one
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError | GeneratorExit) or ends_run(error):
                raise
            logger.exception("the pipeline behind %r raised on entry %s; the pump goes on", self, entry.id)
