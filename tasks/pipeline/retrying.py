"""Nodes that repeat failed calls of their function, in order, without running the nodes before them again.

The node awaits its own pauses: the source waits for the node, and elements that come during a pause wait for their turn. So nothing
overtakes an element that is tried again, and no state sees an element twice.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from typing import Any, Protocol

from streamz import Stream, sinks
from streamz import core as nodes

from tasks.base.logs import get_logger
from tasks.base.plain_text import error_line
from tasks.base.repeated_warnings import Repeated
from tasks.errors import PipelineError, RetryLater
from tasks.group.attempts import Attempts, Failures, Postponed
from tasks.pipeline.awaiting import PLAIN, Turns, expect_plain, is_plain, settled
from tasks.pipeline.receipts import Metadata, Receipt, receipts
from tasks.pipeline.retry import Retry, take_options
from tasks.reservoir.results import newest, result_name

__all__ = ["Call", "GivenUpError", "Guards", "Retried", "Retrier", "apply"]

logger = get_logger(__name__)

_LEAST_PAUSE = 0.01  # seconds: RetryLater(0) must not keep the loop busy
_MOST_ASIDE = 1_000  # elements of a node that others may overtake at a time


class GivenUpError(PipelineError):
    """All attempts have failed. Wraps the last error on its way to the dead letter.

    attempts  how many there were
    error     the last error
    """

    def __init__(self, attempts: int, error: BaseException) -> None:
        super().__init__(f"failed {attempts} times, at last with {error_line(error)}")
        self.attempts = attempts
        self.error = error


@dataclass(frozen=True, slots=True)
class Retried:
    """A call that has failed and is tried again.

    failed   the number of failed attempts; 0 while the other side has only asked for time
    most     the number of attempts; None if there is no limit
    error    the last error, on one line
    since, again   the times of the first failure here and of the next attempt, in seconds since the epoch
    """

    node: str
    topic: str
    id: str
    failed: int
    most: int | None
    error: str
    since: float
    again: float


class Guards(Protocol):
    """The guards of a graph, as `tasks.pipeline.guard.Secured` implements them."""

    @property
    def attempts(self) -> Any:
        """The `Attempts` of each consumer, by its lease."""
        ...

    @property
    def retried(self) -> dict[Any, Retried]:
        """The calls that are tried again."""
        ...

    has_postponed: bool

    def hold(self, node: Stream, waiting: list[Awaitable[Any]], metadata: Metadata) -> list[Any]:
        """Return awaitables that hold the receipts until all of `waiting` is done."""
        ...


class Call:
    """The calls of one node with one element.

    node      the node's name
    made_of   the receipts of the entries that the element was made of
    ordinal   the number of earlier elements of the same entries in this node
    keeper    the receipt of the newest of these entries, or one without an entry; None if there is none
    failed    how often it has failed
    """

    __slots__ = ("failed", "keeper", "made_of", "node", "ordinal", "since")

    def __init__(self, node: str, made_of: list[Receipt], ordinal: int, keeper: Receipt | None) -> None:
        self.node, self.made_of, self.ordinal, self.keeper = node, made_of, ordinal, keeper
        self.failed = Failures(0)
        self.since = 0.0

    @property
    def name(self) -> bytes:
        """A name that is the same in every life of the pipeline."""
        return result_name(self.made_of, into="", node=self.node, ordinal=self.ordinal)


class Retrier:
    """Makes the calls of one node, and repeats those that fail.

    name      of the node
    """

    def __init__(self, name: str, retry: Retry, guards: Guards) -> None:
        self.retry = retry
        self._node = name
        self._guards = guards
        self._postponed: set[str] = set()
        self._warn = Repeated(logger)

    def arrived(self, metadata: Metadata) -> Call:
        """Return the call for an element that has come to the node. Call it once for each element, in order."""
        made_of = [one for one in receipts(metadata) if one.id]
        if not made_of:
            return Call(self._node, [], 0, next(iter(receipts(metadata)), None))
        keeper = newest(made_of)
        ordinal = keeper.count_call(self._node, *((one.topic, one.id) for one in made_of))
        return Call(self._node, made_of, ordinal, keeper)

    def must_wait(self, call: Call) -> bool:
        """Return whether something must be looked up before the first attempt, or the call is left to the next run."""
        book = self._book(call)
        keeper = call.keeper
        if book is None or keeper is None:
            return False
        return bool(self._postponed) or book.concern(keeper.topic, keeper.id)

    async def attempt(self, call: Call, begin: Callable[[], Any]) -> Any:
        """Make one attempt, and return its result.

        raises    GivenUpError: all attempts have failed in an earlier life; Postponed; whatever the function raises
        """
        await self.ready(call)
        return await settled(begin())

    async def ready(self, call: Call) -> None:
        """Look up how often a call has failed in earlier lives, if that is not known.

        raises    GivenUpError: all attempts have failed; Postponed
        """
        book, keeper = self._book(call), call.keeper
        if keeper is not None and keeper.fence.lease in self._postponed:
            raise Postponed  # or it would overtake an element that is left to the next run
        if book is not None and keeper is not None and not call.failed.times and book.concern(keeper.topic, keeper.id):
            call.failed = await book.failures(keeper.topic, keeper.id, call.name)
            if call.failed.times:
                keeper.note_record()
                if self.retry.pause(call.failed.times) is None:
                    why = f"the run ended before the entry became a dead letter; the last error was {call.failed.last}"
                    raise GivenUpError(call.failed.times, PipelineError(why))

    async def outcome(self, call: Call, begin: Callable[[], Any], failed: Exception | None = None) -> Any:
        """Return the result of the first attempt that succeeds, after pauses.

        begin     makes an attempt: returns a result, or an awaitable
        failed    what the first attempt has raised, if it was made already
        raises    GivenUpError: with the error of the last attempt; Postponed
        """
        try:
            while True:
                if failed is None:
                    try:
                        return await self.attempt(call, begin)
                    except (GivenUpError, Postponed):
                        raise
                    except Exception as error:  # noqa: BLE001 - handled below, outside the handler, so that errors are not chained
                        failed = error
                await self.failed(call, failed)
                failed = None
        finally:
            self._guards.retried.pop(call, None)

    async def failed(self, call: Call, error: Exception) -> None:
        """Count a failed attempt, and pause before the next one.

        raises    GivenUpError: there is no next one; Postponed
        """
        asked = isinstance(error, RetryLater)
        if not asked:
            if not self.retry.covers(error):
                raise GivenUpError(call.failed.times + 1, error)
            call.failed = Failures(call.failed.times + 1, error_line(error))
        pause = (
            max(error.seconds, _LEAST_PAUSE) if isinstance(error, RetryLater) else self.retry.pause(call.failed.times)
        )
        book, keeper = self._book(call), call.keeper
        try:
            if book is not None and keeper is not None and keeper.id and not asked:
                is_forgotten = pause is None and book.forgets_last
                keeper.note_record()
                await book.note(keeper.topic, keeper.id, call.name, Failures(0) if is_forgotten else call.failed)
            if pause is None:
                raise GivenUpError(call.failed.times, error)
            self._mention(call, error, pause)
            await (asyncio.sleep(pause) if book is None else book.pause(pause))
        except Postponed:
            self._guards.has_postponed = True
            if keeper is not None and not self.retry.overtake:
                self._postponed.add(keeper.fence.lease)
            raise

    def _mention(self, call: Call, error: Exception, pause: float) -> None:
        now, keeper = time.time(), call.keeper
        call.since = call.since or now
        topic, id_ = (keeper.topic, keeper.id) if keeper is not None else ("", "")
        tried = Retried(
            self._node, topic, id_, call.failed.times, self.retry.attempts, error_line(error), call.since, now + pause
        )
        self._guards.retried[call] = tried
        self._warn(f"node {self._node!r} tries failed calls again", detail=described(tried))

    def _book(self, call: Call) -> Attempts | None:
        return None if call.keeper is None else self._guards.attempts.get(call.keeper.fence.lease)


def described(one: Retried) -> str:
    """Return a call that is tried again in words."""
    of = f" of {one.most}" if one.most is not None else ""
    times = f"attempt {one.failed}{of} failed" if one.failed else "asked to wait"
    entry = f"topic {one.topic!r} entry {one.id}: " if one.id else ""
    return f"{entry}{times} ({one.error}), next in {max(0.0, one.again - time.time()):.3g} s"


class RetryingNode:
    """The `update` of a `map`, `starmap` or `sink` that tries failed calls again.

    call    called with an element
    emit    called with the result and the metadata; returns awaitables
    """

    def __init__(
        self,
        node: Stream,
        retrier: Retrier,
        guards: Guards,
        call: Callable[[Any], Any],
        emit: Callable[[Any, Any], list[Any]],
    ) -> None:
        self._node, self._retrier, self._guards = node, retrier, guards
        self._call, self._emit = call, emit
        self._turns = Turns()
        self._aside: set[Any] = set()

    def update(self, x: Any, who: Stream | None = None, metadata: Metadata = None) -> list[Any]:  # noqa: ARG002
        """Call the function with an element, and emit the result."""
        call = self._retrier.arrived(metadata)
        if self._turns.waiting or self._retrier.must_wait(call):
            return self._turns.add(partial(self._later, call, x, metadata))
        try:
            result = self._call(x)
        except Exception as error:  # noqa: BLE001 - `failed` raises it again if it is not covered
            return self._turns.add(partial(self._later, call, x, metadata, failed=error))
        if type(result) in PLAIN or is_plain(result) or not isawaitable(result):
            return self._emit(result, metadata)
        return self._turns.add(partial(self._later, call, x, metadata, begun=[result]))

    async def _later(
        self, call: Call, x: Any, metadata: Metadata, *, begun: list[Any] | None = None, failed: Exception | None = None
    ) -> list[Any]:
        """Make the attempts in the turn of the element; those after the first one aside, if others may overtake it.

        begun    holds the awaitable of an attempt that was begun
        """

        def begin() -> Any:
            return begun.pop() if begun else self._call(x)

        if not self._retrier.retry.overtake:
            return self._emit(await self._retrier.outcome(call, begin, failed), metadata)
        if failed is None:
            try:
                return self._emit(await self._retrier.attempt(call, begin), metadata)
            except (GivenUpError, Postponed):
                raise
            except Exception as error:  # noqa: BLE001 - as in `update`
                failed = error

        async def aside() -> None:
            for one in self._emit(await self._retrier.outcome(call, begin, failed), metadata):
                await one

        [task] = self._guards.hold(self._node, [aside()], metadata)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
        return [task] if len(self._aside) >= _MOST_ASIDE else []


def apply(node: Any, retry: Retry | None, guards: Guards) -> None:
    """Have a guarded and repaired node of streamz try failed calls again, if it has a `retry`."""
    take_options(node)
    if retry is None:
        return
    retrier = Retrier(node.meter.name, retry, guards)
    node.retries = True
    if type(node) is nodes.map_async:
        begin = node.begin_call
        # A task: a coroutine would warn that it was never awaited, if the loop closes before its first step.
        node.begin_call = lambda x, metadata: asyncio.ensure_future(
            retrier.outcome(retrier.arrived(metadata), partial(begin, x, metadata))
        )
        return

    def emit(result: Any, metadata: Metadata) -> list[Any]:
        if type(node) is sinks.sink:
            expect_plain(result, node, "the sink's function")
            return []
        return node._emit(result, metadata=metadata)

    if type(node) is nodes.starmap:
        call: Callable[[Any], Any] = lambda x: node.func(*x, *node.args, **node.kwargs)  # noqa: E731
    else:
        call = lambda x: node.func(x, *node.args, **node.kwargs)  # noqa: E731
    node.update = RetryingNode(node, retrier, guards, call, emit).update
