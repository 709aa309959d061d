"""The Prefect tasks of an inlet's one-shot run: `pump` and `push`, each retried on its own.

Kept apart from everything else in `tasks`, which does not need Prefect.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from prefect import task

from tasks.pump import Entries, as_entries
from tasks.reservoir import Reservoir

__all__ = ["pump", "push"]


@task(retries=3, retry_delay_seconds=[1, 5, 30], persist_result=False)
def pump(function: Callable[..., Any], parameters: Mapping[str, Any]) -> Entries:
    """Call a pump once and return its entries. Retried when it raises; raises PumpError for what is no entry."""
    import asyncio  # noqa: PLC0415

    value = function(**parameters)
    if inspect.isawaitable(value):
        value = asyncio.run(_awaited(value))
    return as_entries(value, name=function.__name__)


@task(retries=3, retry_delay_seconds=[1, 5, 30], persist_result=False)
def push(reservoir: Reservoir, topic: str, entries: Entries, *, tick: str, keep: int | None = None) -> list[str]:
    """Append entries in order, all or none, once for each `tick`, and return their ids: a retry pushes nothing twice."""
    ids = reservoir.append(topic, reservoir.encode(entries), record=f"sluice:once:{tick}", keep=keep, ttl_ms=86_400_000)
    assert ids is not None  # nothing was expected of the record  # noqa: S101
    return ids


async def _awaited(value: Any) -> Any:
    return await value
