"""The streamz sink `to_sink`: writes batches of elements with stable ids to an idempotent sink."""

import asyncio
import hashlib
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from streamz import Stream
from streamz.sinks import Sink

from tasks.base.fatal import ends_run
from tasks.checks import check_number, seconds
from tasks.errors import PipelineError, RetryLater, SettingsError
from tasks.group.attempts import Postponed
from tasks.pipeline import trust
from tasks.pipeline.awaiting import is_async, settled
from tasks.pipeline.receipts import Metadata, Receipt, receipts
from tasks.pipeline.retry import Covers, Pauses, Retry
from tasks.pipeline.retrying import Call, GivenUpError, Retrier
from tasks.reservoir.results import newest
from tasks.sinks.deliveries import Delivery, IdempotentSink
from tasks.state.values import STATES

__all__ = ["to_sink"]

_BATCH = 500


class _Inherited:
    def __repr__(self) -> str:
        return "<the outlet's>"


_INHERITED: Any = _Inherited()


class _Held(NamedTuple):
    """An element that waits to be written."""

    delivery: Delivery
    call: Call
    metadata: list[dict[str, Any]]


@partial(trust, keeps=True)
@Stream.register_api()
class to_sink(Sink):  # noqa: N801 - streamz names nodes like functions
    """Write batches of elements to an idempotent sink; entries are acknowledged when the sink has taken their elements.

    Each element comes with an id that is the same in a redelivery or replay (`Delivery`), so that a sink that knows the id can
    leave it out. Batches are written one after the other, in order.

    If the sink raises on a batch, it gets the first half, and so on, until one element fails alone. That element is tried again
    as `retry` says, and fails after the last attempt; the others are written.

    sink      an object with `write(batch)`, or such a function; `batch` is a list of deliveries ([sinks.md](sinks.md#batches-with-ids)).
              A plain function runs in a thread, an async one is awaited
    batch     a batch is written when it has so many elements. Default: what the sink takes, 500 if it does not say
    timeout   or so long after its first element
    retry     pauses such as '1s, 5s, 30s' before further attempts; None: one attempt. Default: the outlet's
    hold      repeat the last pause for as long as the sink raises
    retry_on  the exceptions that are worth another attempt: types, or a function of an exception. Default: what the sink says;
              all but `RejectedError` if it does not
    """

    def __init__(
        self,
        upstream: Stream,
        sink: IdempotentSink | Callable[[Sequence[Delivery]], Awaitable[None] | None],
        *,
        batch: int | None = None,
        timeout: str | float | timedelta = "1s",
        retry: Pauses | None = _INHERITED,
        hold: bool = False,
        retry_on: Covers | None = None,
        **kwargs: Any,
    ) -> None:
        write = getattr(sink, "write", sink)
        if not callable(write):
            msg = f"to_sink: expected an object with a method write(batch), or a function of a batch, got a {type(sink).__name__}"
            raise SettingsError(msg)
        if batch is not None:
            check_number(batch, least=1, name="batch")
        self._sink, self._write = sink, write
        self._batch = batch or getattr(sink, "max_batch", _BATCH)
        self._max_seconds = seconds(timeout, name="timeout")
        self._retry_on = retry_on or getattr(sink, "covers", None)
        self._is_inherited = retry is _INHERITED
        if self._is_inherited and hold:
            msg = "hold: expected `retry` with it, such as retry='1s, 5s, 30s', got none"
            raise SettingsError(msg)
        self._own = (
            None if self._is_inherited else Retry.of(retry, hold=hold, retry_on=self._retry_on if retry else None)
        )
        self._held: deque[_Held] = deque()
        self._lock = asyncio.Lock()
        self._works: set[Any] = set()
        self._writing: Any = None
        self._timer: object | None = None
        self._retrier: Retrier | None = None
        super().__init__(upstream, ensure_io_loop=True, **kwargs)

    def update(
        self,
        x: Any,
        who: Stream | None = None,  # noqa: ARG002 - streamz' signature
        metadata: Metadata = None,
    ) -> list[Any]:
        """Hold an element; begin to write a full batch. Returns the write before that one, if it is not done."""
        retrier = self._retrier = self._retrier or self._made_retrier()
        call = retrier.arrived(metadata)
        self._retain_refs(metadata or [])
        self._held.append(_Held(Delivery(_id(call, x, self._label()), x), call, metadata or []))
        if len(self._held) < self._batch:
            self._set_timer()
            return []
        before = self._writing
        self._begin()
        return [] if before is None or before.done() else [before]

    def before_stop(self) -> bool:
        """Begin to write the held elements, so that a stop leaves none to the next run; return whether all are written."""
        self._begin()
        return not self._works

    def before_cut(self) -> None:
        """Begin to write the held elements, because a cut waits for them."""
        self._begin()

    def after_end(self) -> None:
        """Close the sink when the source has ended."""
        if close := getattr(self._sink, "close", None):
            close()

    def _made_retrier(self) -> Retrier:
        guards = self._guards
        retry = guards.retry if self._is_inherited else self._own
        if retry is None:
            retry = Retry(())
        elif self._is_inherited and self._retry_on is not None:
            retry = Retry.of(retry.pauses, hold=retry.hold, retry_on=self._retry_on) or retry
        return Retrier(self.meter.name, retry, guards)

    @property
    def _guards(self) -> Any:
        if not hasattr(self, "secured"):
            msg = "to_sink: expected a pipeline behind from_redis, whose entries have ids, got another source"
            raise PipelineError(msg)
        return self.secured

    def _label(self) -> str:
        """Return what distinguishes this sink from others of its pipeline in ids: nothing for the first one without a name."""
        return "" if self.meter.name == "to_sink" else self.meter.name

    def _set_timer(self) -> None:
        if self._timer is None:
            assert self.loop is not None  # ensured in __init__
            self._timer = self.loop.call_later(self._max_seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._begin()

    def _begin(self) -> None:
        """Begin to write all held elements, if there are any, after those that are being written."""
        held, self._held = list(self._held), deque()
        for start in range(0, len(held), self._batch):
            batch = held[start : start + self._batch]
            for receipt in _receipts(batch):
                receipt.retain()  # besides the hold as a kept one: work on it is under way
            [work] = self._guards.hold(self, [self._work(batch)], [])
            self._writing = work
            self._works.add(work)
            work.add_done_callback(self._works.discard)

    async def _work(self, batch: list[_Held]) -> None:
        async with self._lock:
            try:
                await self._write_all([one for one in batch if await self._is_ready(one)])
            except Postponed:
                return  # still retained: the entries stay pending

    async def _is_ready(self, one: _Held) -> bool:
        """Return whether an element may be written: not if all its attempts failed in an earlier life."""
        assert self._retrier is not None  # made in `update`
        try:
            await self._retrier.ready(one.call)
        except GivenUpError as error:
            self._fail(one, error)
            return False
        return True

    async def _write_all(self, batch: list[_Held]) -> None:
        """Write elements in order; narrow a part that fails down to the first element that fails alone.

        raises    Postponed
        """
        assert self._retrier is not None  # made in `update`
        parts = deque([batch] if batch else [])
        while parts:
            part = parts.popleft()
            try:
                await self._call(part)
            except RetryLater as error:
                await self._retrier.failed(part[0].call, error)
                self._guards.retried.pop(part[0].call, None)
                parts.appendleft(part)
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError | GeneratorExit) or ends_run(error):
                    raise
                if len(part) > 1:
                    middle = len(part) // 2
                    parts.extendleft((part[middle:], part[:middle]))
                    continue
                await self._write_alone(part[0], error)
                parts = deque([rest] if (rest := list(itertools.chain(*parts))) else [])
            else:
                self._done(part)

    async def _write_alone(self, one: _Held, error: BaseException) -> None:
        """Try an element again that has failed alone, and fail it after the last attempt."""
        assert self._retrier is not None  # made in `update`
        if not isinstance(error, Exception):
            self._fail(one, GivenUpError(1, error))
            return
        try:
            await self._retrier.outcome(one.call, lambda: self._call([one]), error)
        except GivenUpError as given_up:
            self._fail(one, given_up)
        else:
            self._done([one])

    async def _call(self, part: list[_Held]) -> None:
        batch = [one.delivery for one in part]
        result = self._write(batch) if is_async(self._write) else await asyncio.to_thread(self._write, batch)
        await settled(result)

    def _fail(self, one: _Held, error: GivenUpError) -> None:
        self._guards.fail(self, one.metadata, error)
        self._done([one])

    def _done(self, part: list[_Held]) -> None:
        for one in part:
            for receipt in _receipts([one]):
                receipt.release()
            self._release_refs(one.metadata)


def _receipts(part: Iterable[_Held]) -> Iterable[Receipt]:
    for one in part:
        yield from receipts(one.metadata)


def _id(call: Call, x: Any, label: str) -> str:
    """Return the id of an element: by its entries, or by its content if it has none, as an aggregation."""
    if not call.made_of:
        return f"content/{_digest(STATES.encode(x))}" + (f"@{label}" if label else "")
    inputs = [one.pushed_as for one in call.made_of]
    topic, id_ = newest(call.made_of).pushed_as
    parts = [topic, id_]
    if len(inputs) > 1:
        parts.append(_digest(repr(inputs).encode()))
    if call.ordinal:
        parts.append(str(call.ordinal))
    return "/".join(parts) + (f"@{label}" if label else "")


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
