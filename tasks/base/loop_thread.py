"""Event loops in threads of their own: for async pumps, and for calls that need a thread without a running loop.

Why not anyio's blocking portal (4.16.0), which Prefect brings along:

- SystemExit or KeyboardInterrupt from one call ends the portal, so that all later calls fail with "This portal is not running";
  here it costs its own call only.
- The end of `start_blocking_portal` waits without a limit for a loop that a call blocks; `OwnLoop.close` waits `_PATIENCE` seconds.

Code around the portal for both would be as long as this module. tests/pump/test_async_pumps.py tests both claims.
"""

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

__all__ = ["OwnLoop", "outside_of_loops"]

_PATIENCE = 5.0  # seconds that `close` waits for a loop that a call blocks


def outside_of_loops(function: Callable[[], Any]) -> Any:
    """Call `function` in a thread without a running loop, and return its result: in this thread if it has none.

    This thread's loop is blocked during the call. The call sees the context variables of this thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function()
    with ThreadPoolExecutor(1, thread_name_prefix="outside of loops") as pool:
        return pool.submit(contextvars.copy_context().run, function).result()


class OwnLoop:
    """One event loop for all async calls of a pump's run, from the first one until `close`.

    It also runs between the calls, so that sessions keep their connections and tasks continue. Any thread may call `call`;
    calls from several threads run concurrently.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], Any], *, timeout: float | None = None) -> Any:
        """Return the result of `function`; if it is awaitable, await it in the loop.

        timeout    seconds after which the awaitable is cancelled
        raises     TimeoutError: it was cancelled; or any error of the function or the awaitable
        """
        value = function()
        if not isinstance(value, Awaitable):
            return value
        # The context carries over, and with it Prefect's logger.
        future = asyncio.run_coroutine_threadsafe(_outcome(value), self._running_loop())
        try:
            if not wait([future], timeout).done:
                msg = f"it took longer than {timeout:g} s"
                raise TimeoutError(msg)
            result, error = future.result()
        finally:
            future.cancel()  # has no effect if it is done
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Cancel all tasks, and end the loop."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(_PATIENCE)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(self._loop,), name="pump loop", daemon=True)
                self._thread.start()
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # cancels remaining tasks and closes the loop at its exit
        runner.get_loop().run_forever()


async def _outcome(value: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    try:
        return await value, None
    except (SystemExit, KeyboardInterrupt) as error:  # asyncio ends the loop at these, without an answer to the caller
        return None, error
