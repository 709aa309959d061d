"""The streamz node `map_in_processes`: a function that is called in other processes, for steps that need more than one core."""

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from streamz import Stream

from tasks.base.logs import get_logger
from tasks.base.plain_text import error_line
from tasks.checks import check_number
from tasks.errors import PipelineError
from tasks.pipeline import trust
from tasks.pipeline.awaiting import refuse_kinds
from tasks.pipeline.receipts import Metadata
from tasks.remote import calls
from tasks.remote.pickles import dumps
from tasks.remote.process_pool import PoolClosedError, ProcessPool

__all__ = ["map_in_processes"]

logger = get_logger(__name__)


@trust
@Stream.register_api()
class map_in_processes(Stream):  # noqa: N801 - streamz names nodes like functions
    """Call `func` on every element in one of `workers` processes, and emit the results in the order of the elements.

    For functions that need a core for milliseconds or more. An entry is acknowledged when its result has passed the nodes
    behind. If the function raises, only that entry fails. If a process dies, its call is repeated in another one. At most
    twice as many elements as `workers` are in progress; the source waits for room.

    func      takes an element, then `args` and `kwargs`. It and its arguments, elements and results must be picklable. Modules
              that a process can import are imported there; what a notebook or a flow file defines is sent by value
    workers   the number of processes; they start with the source, and end with it
    retries   how often a call is repeated whose process died; then the entry fails
    raises    PipelineError: at once: a function that cannot be pickled, or an async one; at the start of the source: a function
              that a process cannot import
    """

    def __init__(
        self,
        upstream: Stream,
        func: Callable[..., Any],
        *args: Any,
        workers: int,
        retries: int = 3,
        stream_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_number(workers, least=1, name="workers")
        check_number(retries, least=0, name="retries")
        self.func, self.name = func, stream_name
        name = stream_name or f"map_in_processes({getattr(func, '__name__', type(func).__name__)})"
        refuse_kinds(
            self, func, frozenset(), "use map_async for an async function; return a list instead of a generator"
        )
        self._pool = ProcessPool(_pickled((func, args, kwargs), name), name=name, workers=workers, retries=retries)
        weakref.finalize(self, self._pool.close, waits=False)
        self._slots = asyncio.Semaphore(2 * workers)
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Future[None]] = set()
        super().__init__(upstream, stream_name=stream_name, ensure_io_loop=True)

    def update(self, x: Any, who: Stream | None = None, metadata: Metadata = None) -> list[Any]:  # noqa: ARG002 - streamz' signature
        """Begin a call, and return what must be awaited until the next may begin."""
        # Pickled now: a branch beside this one may change the element later.
        return [self._begin(dumps(x), metadata or [])]

    def before_start(self) -> None:
        """Start the processes. Any thread."""
        self._pool.start()

    def after_end(self) -> None:
        """End the processes; calls that are under way are dropped, and their entries stay pending. Any thread."""
        assert self.loop is not None  # ensure_io_loop
        self.loop.add_callback(self._drop_calls)
        self._pool.close()

    async def _begin(self, element: bytes, metadata: Any) -> None:
        await self._slots.acquire()
        call = self._finish(element, metadata)
        secured = getattr(self, "secured", None)
        [task] = secured.hold(self, [call], metadata) if secured else [self._hold(call, metadata)]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, element: bytes, metadata: Any) -> None:
        """Call the function, and emit its result when those of all earlier elements are done."""
        outcome: asyncio.Future[bytes] | None = None
        try:
            outcome = self._pool.call(element)
            async with self._turn:
                await self._emit_result(outcome, metadata)
        finally:
            if outcome is not None and not outcome.cancel() and not outcome.cancelled():
                outcome.exception()  # or asyncio logs one that a stop left unread
            self._slots.release()

    async def _emit_result(self, outcome: "asyncio.Future[bytes]", metadata: Any) -> None:
        try:
            result = calls.result_of(await outcome)
        except PoolClosedError:
            await asyncio.get_running_loop().create_future()  # until `after_end` drops this task
        except BaseException as error:  # a library may call sys.exit
            if outcome.cancelled() or not outcome.done():
                raise
            self._fail(metadata, error)
        else:
            for one in self._emit(result, metadata=metadata):
                await one

    def _fail(self, metadata: Any, error: BaseException) -> None:
        if secured := getattr(self, "secured", None):
            secured.fail(self, metadata, error)
        else:
            logger.error("%r raised %s", self, error_line(error), exc_info=error)

    def _hold(self, call: Coroutine[Any, Any, None], metadata: Any) -> "asyncio.Future[None]":
        """Begin a call that nothing guards, in a graph without `from_redis`."""
        self._retain_refs(metadata)
        task = asyncio.ensure_future(call)
        task.add_done_callback(lambda _: self._release_refs(metadata))
        return task

    def _drop_calls(self) -> None:
        for task in list(self._tasks):
            task.cancel()


def _pickled(call: calls.Call, name: str) -> bytes:
    try:
        return dumps(call)
    except Exception as error:
        msg = (
            f"pipeline node {name!r}: expected a function that can be pickled, got {error_line(error)}; create what it uses "
            "(connections, locks, files) within the function, or at the top of a module that it imports"
        )
        raise PipelineError(msg) from error
