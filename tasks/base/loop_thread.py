"""Event loops in threads of their own: for async pumps, and for calls that need a thread without a running loop."""

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

__all__ = ["OwnLoop", "outside_of_loops"]

# How long `close` waits for a loop that something blocks.
_PATIENCE = 5.0


def outside_of_loops(function: Callable[[], Any]) -> Any:
    """Return what `function` returns, called where no loop runs: here, or in another thread if one runs in this one.

    The loop of this thread stands still meanwhile, as in any call that blocks. Context variables come along.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function()
    with ThreadPoolExecutor(1, thread_name_prefix="outside of loops") as pool:
        return pool.submit(contextvars.copy_context().run, function).result()


class OwnLoop:
    """One loop for all that is awaited in a run of a pump, from the first call that needs it until `close`.

    It turns between the calls too: a session keeps its connections alive, a task that was started goes on. Calls may come
    from several threads; what they await runs side by side.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], Any], *, timeout: float | None = None) -> Any:
        """Return what `function` returns; if that can be awaited, what it comes to in the loop.

        timeout    seconds after which what is awaited is cancelled
        raises     TimeoutError: it was; or what was raised
        """
        value = function()
        if not isinstance(value, Awaitable):
            return value
        # Context variables come along, so Prefect's logger does.
        future = asyncio.run_coroutine_threadsafe(_outcome(value), self._turning())
        try:
            if not wait([future], timeout).done:
                msg = f"it took longer than {timeout:g} s"
                raise TimeoutError(msg)
            result, error = future.result()
        finally:
            future.cancel()  # no effect where it is done
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Cancel what is awaited still, and end the loop."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(_PATIENCE)

    def _turning(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_turn, args=(self._loop,), name="pump loop", daemon=True)
                self._thread.start()
            return self._loop


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # cancels what is left, and closes the loop
        runner.get_loop().run_forever()


async def _outcome(value: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    try:
        return await value, None
    except (SystemExit, KeyboardInterrupt) as error:  # asyncio lets these end the loop, and nobody would be answered
        return None, error
