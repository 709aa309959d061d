"""An event loop with a virtual clock that skips waiting: an hour of timers takes as long as their callbacks."""

import asyncio
import selectors
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tornado.platform.asyncio import AsyncIOMainLoop

__all__ = ["VirtualLoop"]


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0 and advances to the next timer when nothing else is left to do.

    Callbacks take no time on this clock. While a call in an executor or a socket may be awaited, the loop waits in real
    time, so that no timeout is early.

    awaits_sockets   returns whether to wait for open sockets; waiting for an idle connection would stop the clock
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.awaits_sockets: Callable[[], bool] = lambda: True
        self._calls_in_threads = 0
        self._idlers: deque[asyncio.Future[float | None]] = deque()
        super().__init__(_Leaping(self))

    def time(self) -> float:
        """Return the seconds of this loop's clock."""
        return self.now

    async def idle(self) -> float | None:
        """Wait until no callback is ready; return the seconds to the next timer, or None without a timer."""
        self._idlers.append(idler := self.create_future())
        return await idler

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run a call in an executor, as other loops do; the clock is real until the call has ended."""
        self._calls_in_threads += 1
        call = super().run_in_executor(executor, func, *args)
        call.add_done_callback(self._end_call)
        return call

    def count_as_outside(self, future: asyncio.Future[Any]) -> None:
        """Keep the clock real until `future`, which something outside of this loop completes, is done."""
        self._calls_in_threads += 1
        future.add_done_callback(self._end_call)

    async def shutdown_default_executor(self, *timeout: float | None) -> None:
        """Wait for the executor's threads in real time: from Python 3.12 on, a timer gives them 300 s to end."""
        self._calls_in_threads += 1
        await super().shutdown_default_executor(*timeout)
        self._calls_in_threads -= 1

    def make_current(self) -> None:
        """Make tornado, which streamz is built on, use this loop's clock. Call it in the loop, before using streamz."""
        _IOLoop(make_current=False)

    def _end_call(self, _: Any) -> None:
        self._calls_in_threads -= 1

    def wait(
        self, selector: selectors.BaseSelector, select: Callable[[float | None], Any], timeout: float | None
    ) -> Any:
        """Return the events of the selector, waiting up to `timeout` seconds of this loop's clock."""
        came = select(0)
        if came or (timeout is not None and timeout <= 0):
            return came
        own = 1  # the socket through which threads wake the loop
        outside = self._calls_in_threads or (len(selector.get_map()) > own and self.awaits_sockets())
        if self._idlers and not outside:
            self._idlers.popleft().set_result(timeout)
        elif outside or timeout is None:
            began = time.monotonic()
            came = select(timeout)
            self.now += time.monotonic() - began
        else:
            self.now += timeout
        return came


class _Leaping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        return self._loop.wait(self, super().select, timeout)


class _IOLoop(AsyncIOMainLoop):
    def time(self) -> float:
        return self.asyncio_loop.time()
