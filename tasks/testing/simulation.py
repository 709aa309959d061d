"""One life of a pipeline, from its start to a stop or a crash, on a clock of its own: what `tasks.testing.bench` works with."""

import asyncio
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from streamz import Stream

from tasks.base.loop_thread import outside_of_loops
from tasks.errors import PipelineError
from tasks.nodes.from_redis import from_redis
from tasks.nodes.source_run import SourceRun
from tasks.pipeline.graphs import graph
from tasks.testing.virtual_time import VirtualLoop

__all__ = ["Life"]

_LONGEST = 86_400.0  # seconds of the clock for which a pipeline may be busy with the same entries


class Life:
    """A pipeline from a start to its end, in a loop of its own that runs only while it is told to.

    It can be used where a loop runs already, as in a notebook or an async test: its own then runs in another thread.

    build     called in the loop: returns a source with a pipeline on it, and what keeps the pipeline's nodes alive
    """

    def __init__(self, build: Callable[[], tuple[from_redis, Any]]) -> None:
        self.source: Any = None
        self._runner = asyncio.Runner(loop_factory=VirtualLoop)
        try:
            outside_of_loops(lambda: self._runner.run(self._begin(build)))
        except BaseException:
            self.close()
            raise

    async def _begin(self, build: Callable[[], tuple[from_redis, Any]]) -> None:
        self._loop.make_current()
        self.source, self._kept = build()
        self._run: SourceRun = self.source.open()
        self._loop.awaits_sockets = lambda: self._is_busy

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Let the loop run until `work`, one of the coroutines below or the source's, has returned.

        raises    PipelineError: for a day of the clock, nothing became of the entries that the pipeline is busy with
        """
        return outside_of_loops(lambda: self._runner.run(self._watched(work)))

    async def _watched(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return what `work` returns, unless the pipeline is busy with the same entries for longer than anything takes."""
        task, patience = asyncio.ensure_future(work), _LONGEST + _patience(self.source)
        while True:
            before = self._run.receipts
            done, _ = await asyncio.wait([task], timeout=patience)
            if done:
                return task.result()
            if self._is_busy and before == self._run.receipts:
                task.cancel()
                busy = [repr(meter.name) for meter in self._run.secured.meters if meter.waiting]
                msg = f"the pipeline does not come to rest: for a day of its clock it was busy with the same entries, in {', '.join(busy)}"
                raise PipelineError(msg)

    async def advance(self, duration: float) -> None:
        """Read all there is, let time pass, and read again."""
        await self._read_on()
        await asyncio.sleep(duration)
        await self._read_on()

    async def come_to_rest(self) -> None:
        """Read all there is, and let time pass until nothing changes any more."""
        patience = _patience(self.source)
        held, since = -1, self._loop.now
        while True:
            came = await self.source.step()
            nap = await self._loop.idle()
            if came or self._is_busy or self._run.in_flight != held:
                held, since = self._run.in_flight, self._loop.now
                if not came and self._is_busy and nap:
                    await asyncio.sleep(nap)
            elif self._loop.now - since >= patience:
                return
            else:  # some of what is kept may be so for a time only
                await asyncio.sleep(patience / 4)

    async def emit_unacknowledged(self, entries: int) -> None:
        """Emit so many entries, all acknowledged that are done but the last, and read on; the next thing is `kill`."""
        consumer, read = self._run.consumer, deque[Any]()
        for left in range(entries, 0, -1):
            read.extend([] if read else consumer.step(0))
            if not read:
                break
            await self._run.emit([read.popleft()])
            if left > 1:
                await self._loop.idle()
                self._run.flush()
        if not read:
            consumer.step(0)
        await self._loop.idle()

    async def leave(self) -> None:
        """Let what is in work finish, acknowledge it, give back the rest and leave the group."""
        while (nap := await self._loop.idle()) and self._is_busy:  # noqa: ASYNC110 - time passes at once
            await asyncio.sleep(nap)
        self._run.flush_nodes()
        self.source.close()

    def kill(self) -> None:
        """End it as a killed process ends, whose lease has run out."""
        self.source.client.delete(self._run.consumer.membership.fence.lease)
        with warnings.catch_warnings():
            # What a killed process had in hand is never awaited.
            warnings.simplefilter("ignore", RuntimeWarning)
            self.close()

    def close(self) -> None:
        """End the loop."""
        if self.source is not None:
            self.source.let_go()
        outside_of_loops(self._runner.close)

    async def _read_on(self) -> None:
        while await self.source.step():
            pass
        await self._loop.idle()
        self._run.flush()

    @property
    def _loop(self) -> VirtualLoop:
        loop = self._runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return loop

    @property
    def _is_busy(self) -> bool:
        return bool(self._run.secured.waiting) or self._run.is_busy


def _patience(source: Stream) -> float:
    """Return the seconds after which nothing is kept any more for a time to come: those of all timed nodes together."""
    times = (getattr(node, name, None) for node in graph(source) for name in ("interval", "_timeout", "_max_seconds"))
    return sum(float(time) for time in times if isinstance(time, int | float))
