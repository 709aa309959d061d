"""A Dask cluster as a graph uses it: it begins calls, and begins them again when Dask has lost them.

The inputs of a call stay in this process until its outcome has been used, so that a lost scheduler or worker costs nothing
but time. Sluice tells apart what fails: a function that raises fails its element; a cluster that does not work holds the
elements up.
"""

import asyncio
import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

from distributed import Client, Future, KilledWorker
from streamz import Stream

from tasks.base.backoff import Backoff
from tasks.base.logs import get_logger
from tasks.base.plain_text import error_line
from tasks.base.repeated_warnings import Repeated
from tasks.errors import PipelineError
from tasks.remote import calls
from tasks.remote.dask_calls import Failed, Leaf, run
from tasks.remote.dask_connection import current
from tasks.remote.pickles import dumps

__all__ = ["Cluster", "Remote", "remotes_in"]

logger = get_logger(__name__)

_LOOK = 1.0  # seconds between two looks at the connection while a call is awaited
_LONGEST_PAUSE = 10.0
# Dask gives a task up after four dead workers (`distributed.scheduler.allowed-failures`), and blames all tasks that a dead
# worker had. So a task is tried once more.
_RETRIES = 1


class Remote:
    """A value that a Dask worker has or will have, and how to make it again.

    call      pickled; with the number of the node that makes it
    element   pickled, with a `Leaf` for each of `inputs`
    outcome   what came of the call, if it is in this process
    """

    __slots__ = ("call", "element", "future", "inputs", "is_known", "node", "outcome")

    def __init__(self, call: bytes, node: int, element: Any) -> None:
        self.call, self.node = call, node
        self.inputs: list[Remote] = []
        self.element = dumps(self._without_inputs(element), "elsewhere")
        self.future: Future | None = None
        self.outcome: bytes | Failed | None = None
        self.is_known = False
        """Whether the call is known to have succeeded."""

    @classmethod
    def of_outcome(cls, outcome: bytes) -> "Remote":
        """Return a value that is in this process."""
        made = cls.__new__(cls)
        made.inputs, made.future, made.is_known, made.outcome = [], None, True, outcome
        return made

    def forget(self) -> None:
        """Have the call and those before it begin again."""
        self.future = None
        for each in self.inputs:
            each.forget()

    def _without_inputs(self, element: Any) -> Any:
        if isinstance(element, Remote):
            self.inputs.append(element)
            return Leaf(len(self.inputs) - 1)
        kind = type(element)
        return kind(self._without_inputs(each) for each in element) if kind in (tuple, list) else element


def remotes_in(element: Any) -> Iterator[Remote]:
    """Yield the remote values that an element, such as a window, is made of."""
    if isinstance(element, Remote):
        yield element
    elif type(element) in (tuple, list):
        for each in element:
            yield from remotes_in(each)


class Cluster:
    """The connection of one graph to a Dask cluster. All methods run in the graph's thread, unless they state another one.

    raises    PipelineError: there is no Dask client
    """

    def __init__(self) -> None:
        self._connection = current()
        self.life: object | None = object()
        """Differs from start to start of the graph; None after its end."""
        self._warn = Repeated(logger)
        self.nodes: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
        """The nodes by the numbers that outcomes have of them."""

    def number(self, node: Stream) -> int:
        """Return a number for a node."""
        self.nodes[number := len(self.nodes)] = node
        return number

    def open(self) -> None:
        """Begin another life, unless this one lasts. Any thread."""
        self.life = self.life or object()

    def close(self) -> None:
        """End this life: work that is under way in it is dropped, and its entries stay pending. Any thread."""
        self.life = None

    async def outlast(self, life: object | None) -> None:
        """Cancel the calling task if the life in which its work began is over."""
        if self.life is not life and (task := asyncio.current_task()) is not None:
            task.cancel()
            await asyncio.sleep(0)

    def begin(self, remote: Remote) -> Remote:
        """Have Dask begin a call; return it. Without a connection, it begins when its outcome is awaited."""
        if self._connection.is_up:
            with contextlib.suppress(Exception):
                self._submitted(remote)
        return remote

    async def outcome(self, remote: Remote) -> bytes | Failed:
        """Return what came of a call: a result, or what a function has raised. Waits for as long as the cluster does not work."""
        deaths, backoff, life = 0, Backoff(first=0.05, longest=_LONGEST_PAUSE), self.life
        while remote.outcome is None:
            await self.outlast(life)
            try:
                outcome: bytes | Failed = await self._fetched(self._submitted(remote), life)
            except KilledWorker as error:
                deaths += 1
                if deaths > _RETRIES:
                    failure = PipelineError(f"the Dask workers that ran it died: {error_line(error)}")
                    return Failed(calls.FAILED + dumps((failure, "")), _blamed(remote).node)
                remote.forget()
                self._warn("Dask workers died; their calls are repeated")
            except (Exception, asyncio.CancelledError) as error:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                remote.forget()
                self._warn("Dask does not answer; elements wait", detail=error_line(error))
                await self._reconnected(backoff, life)
            else:
                if isinstance(outcome, Failed) and outcome.outcome[:1] == calls.UNLOADABLE:
                    remote.forget()
                    self._warn(
                        "Dask workers cannot import a function of the pipeline; elements wait until they can",
                        detail=_text(outcome),
                    )
                    await asyncio.sleep(backoff.next())
                else:
                    remote.outcome = outcome
        await self.outlast(life)
        return remote.outcome

    def _submitted(self, remote: Remote) -> Future:
        """Return the Dask future of a call that has begun; begin it, and those before it, if Dask does not have it."""
        future, client = remote.future, self._connection.client
        if future is None or future.client is not client or future.status in ("cancelled", "lost"):
            inputs = [each.outcome or self._submitted(each) for each in remote.inputs]
            future = client.submit(run, remote.call, remote.node, remote.element, *inputs, pure=False)
            remote.future = future
        return future

    async def _fetched(self, future: Future, life: object | None) -> Any:
        """Return the result of a Dask future; raise if Dask has lost it, or the connection."""
        loop = asyncio.get_running_loop()
        client = self._connection.client
        dask_loop: Any = client.loop.asyncio_loop  # type: ignore[union-attr] - it runs as long as the client
        fetching = asyncio.run_coroutine_threadsafe(_gather(client, future), dask_loop)
        waiting = asyncio.wrap_future(fetching)
        if count := getattr(loop, "count_as_outside", None):  # of the test kit: its clock is real for so long
            count(waiting)
        try:
            while not (await asyncio.wait([waiting], timeout=_LOOK))[0]:
                if client.status != "running":
                    msg = f"the client is {client.status}"
                    raise ConnectionError(msg)
                self._connection.revive_workers()
                await self.outlast(life)
            return waiting.result()
        finally:
            waiting.cancel()

    async def _reconnected(self, backoff: Backoff, life: object | None) -> None:
        """Wait until there is a connection."""
        await asyncio.sleep(backoff.next())
        while not self._connection.is_up:
            await self.outlast(life)
            await self._connection.look()
            await asyncio.sleep(backoff.next())


def _blamed(remote: Remote) -> Remote:
    """Return the call that Dask has given up: this one, or one before it."""
    for each in remote.inputs:
        if each.future is not None and each.future.status == "error":
            return _blamed(each)
    return remote


async def _gather(client: Client, future: Future) -> Any:
    """Return the result of a future. The client's loop."""
    gathering: Any = client.gather(future, asynchronous=True)  # its annotation has no awaitable
    return await gathering


def _text(failed: Failed) -> str:
    try:
        calls.result_of(failed.outcome)
    except BaseException as error:  # noqa: BLE001 - what the import has raised
        return error_line(error)
    return ""
