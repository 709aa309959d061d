"""Helpers for tests of nodes: feed 0 to 6 through a pipeline, and return the pending ones."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import redis
from streamz import Stream

from tests.support.streams import drain, here, pending, push_all

Build = Callable[[Stream], Stream]
PUSHED = list(range(7))


def members(element: Any) -> Iterable[int]:
    """Yield the numbers in an element."""
    if isinstance(element, int):
        yield element
    elif isinstance(element, list | tuple):
        for one in element:
            yield from members(one)


def without_result(source: Stream, build: Callable[[Stream], Any]) -> None:
    """Build a pipeline without a result, so that nothing is connected to its end."""
    source.kept = build(source)


def feed(client: redis.Redis, build: Callable[[Stream], Any], *, until: Callable[[], bool]) -> list[int]:
    """Feed 0 to 6 through a pipeline, wait until it is at rest, and return those still pending."""
    ids = push_all(client, "topic", PUSHED)

    async def main() -> list[int]:
        source = here(client)
        kept = build(source.pluck("n"))
        source.open()
        await drain(source, until=until)
        at_rest = [ids.index(id_) for id_ in pending(client)]
        source.close()
        del kept
        return at_rest

    return asyncio.run(main())
