"""Fetching results of Dask: several at a time while calls wait for a worker, and at once otherwise.

A fetch is a request to the scheduler, and one from there to a worker. One by one, they use more CPU than everything else that
Dask does for a call (distributed 2026.8.0).
"""

import asyncio
import contextlib
from typing import Any

from distributed import Client, Future, KilledWorker

__all__ = ["gathered"]

_QUEUED = 2  # calls for each thread of the workers that must be left to them
_PATIENCE = 0.2  # seconds that a result waits for those behind it
_POLL = 0.01  # seconds


async def gathered(client: Client, futures: list[Future]) -> list[Any]:
    """Return the results of the first future and of some behind it, up to half of them; None for each that is not done.

    Waits for the first one only, unless the workers have enough to do without those that it waits for. The client's loop.

    raises    whatever Dask raises for the first one
    """
    threads = client.scheduler_info().get("total_threads", len(futures))  # as of some two seconds ago
    first, *later = futures[: max(1, min(len(futures) - _QUEUED * threads, len(futures) // 2))]
    patience = _PATIENCE
    while later and patience > 0 and not all(each.done() for each in (first, *later)):
        patience -= _POLL if first.done() else 0
        await asyncio.sleep(_POLL)
    done = [each for each in (first, *later) if each.status == "finished"]
    if len(done) > 1 and done[0] is first:
        with contextlib.suppress(OSError, KilledWorker):  # of any of them: whoever awaits that one gets it
            found = dict(zip(done, await _fetched(client, done), strict=True))
            return [found.get(each) for each in (first, *later)]
    return await _fetched(client, [first])


async def _fetched(client: Client, futures: list[Future]) -> list[Any]:
    fetching: Any = client.gather(futures, asynchronous=True)  # its annotation has no awaitable
    return await fetching
