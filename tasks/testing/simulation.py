"""A simulated run of a pipeline, from its start to a stop or a crash, on a virtual clock."""

import asyncio
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from streamz import Stream

from tasks.base.ids import id_numbers
from tasks.base.loop_thread import outside_of_loops
from tasks.errors import PipelineError
from tasks.nodes.from_redis import from_redis
from tasks.nodes.source_run import SourceRun
from tasks.pipeline.graphs import graph
from tasks.testing.virtual_time import VirtualLoop

__all__ = ["SimulatedRun"]

_LONGEST = 86_400.0  # virtual seconds for which a pipeline may be busy with the same entries


class SimulatedRun:
    """A run of a pipeline in an event loop of its own, which advances only within the calls below.

    Works inside a running loop too, as in a notebook or an async test: its own loop then runs in another thread.

    build     called in the loop; returns a source with a pipeline on it, and an object that keeps the nodes alive
    """

    def __init__(self, build: Callable[[], tuple[from_redis, Any]]) -> None:
        self.source: Any = None
        self._newest, self._since = -1, 0.0
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
        self._run.set_clock(self._clock)

    def _clock(self) -> int:
        """Return the time by the ids of entries, in ms: that of the newest one that was read, and the virtual time since then."""
        newest = max([id_numbers(last)[0] for last in self._run.consumer.last_read.values()], default=0)
        if newest != self._newest:
            self._newest, self._since = newest, self._loop.now
        return newest + round(1000 * (self._loop.now - self._since))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run the loop until `work`, one of the coroutines below or the source's, has returned.

        raises    PipelineError: the pipeline was busy with the same entries for a day of the virtual clock
        """
        return outside_of_loops(lambda: self._runner.run(self._watched(work)))

    async def _watched(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return the result of `work`, or give up when the pipeline stays busy with the same entries for too long."""
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
        """Read all available entries, let time pass, and read again."""
        await self._read_on()
        await asyncio.sleep(duration)
        await self._read_on()

    async def come_to_rest(self) -> None:
        """Read all available entries, and let time pass until nothing changes any more."""
        patience = _patience(self.source)
        held, since = -1, self._loop.now
        while True:
            came = await self.source.step()
            nap = await self._loop.idle()
            if came or self._is_busy or self._run.in_flight != held:
                held, since = self._run.in_flight, self._loop.now
                if not came and self._is_busy and nap:
                    await asyncio.sleep(nap)
            elif (due := self._run.due) is not None:
                await asyncio.sleep(max(1, due - self._clock()) / 1000)
                await self._run.pass_time()
            elif self._loop.now - since >= patience:
                return
            else:  # nodes may keep some entries for a limited time
                await asyncio.sleep(patience / 4)

    async def emit_unacknowledged(self, entries: int, unacknowledged: int) -> None:
        """Emit `entries` entries, acknowledge the finished ones except the last ones, and read ahead; `kill` follows."""
        self._run.is_admitted()
        consumer, read = self._run.consumer, deque[Any]()
        for left in range(entries, 0, -1):
            read.extend([] if read else consumer.step(0))
            if not read:
                break
            await self._run.emit([read.popleft()])
            if left > unacknowledged:
                await self._loop.idle()
                self._run.flush()
        if not read:
            consumer.step(0)
        await self._loop.idle()

    async def leave(self) -> None:
        """Let entries in work finish, acknowledge them, give back the rest and leave the group."""
        while (nap := await self._loop.idle()) and self._is_busy:  # noqa: ASYNC110 - time passes at once
            await asyncio.sleep(nap)
        self._run.flush_nodes()
        while (nap := await self._loop.idle()) and self._is_busy:  # noqa: ASYNC110 - as above, for nodes that write asynchronously
            await asyncio.sleep(nap)
        self.source.close()

    def kill(self) -> None:
        """End the run as a killed process ends, and delete its lease, as if that had expired."""
        self.source.client.delete(self._run.consumer.membership.fence.lease)
        with warnings.catch_warnings():
            # A killed process awaits nothing.
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
        await self._run.pass_time()
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
    """Return the seconds after which no timed node holds an entry: the sum of their intervals."""
    times = (getattr(node, name, None) for node in graph(source) for name in ("interval", "_timeout", "_max_seconds"))
    return sum(float(time) for time in times if isinstance(time, int | float))
