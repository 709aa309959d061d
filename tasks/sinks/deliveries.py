"""Deliveries: what `.to_sink` passes to a sink, and what a sink is."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Delivery", "IdempotentSink"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """An element of a stream on its way out, with an id that is the same whenever it is delivered.

    id      names the entries that the element was made of: 'market/1796000000000-0', with '/1', '/2'... for further elements of
            the same entry, a digest where several entries are combined, and '@name' for a sink with a name. Redeliveries after a crash, replays
            in another group and replayed dead letters have the same id
    value   the element
    """

    id: str
    value: Any


class IdempotentSink(Protocol):
    """What `.to_sink` writes to.

    `write` stores all deliveries, in order, or raises. A delivery whose id was stored before must have no second effect: after an
    error or a crash, deliveries come again, in other batches. A plain `write` runs in a thread, an async one in the event loop.

    A sink may have `max_batch`, the number of deliveries that it takes at once by default; `covers(error)`, which returns whether
    an error is worth another attempt; and `close()`, which is called when the source has ended, and may be followed by more writes.
    """

    def write(self, batch: Sequence[Delivery]) -> Awaitable[None] | None:
        """Store deliveries.

        raises    RetryLater: after these seconds, the same deliveries come again; RejectedError: one of them will never succeed;
                  any other error is worth another attempt
        """
        ...
