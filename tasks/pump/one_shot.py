"""The two Prefect tasks of a one-shot run of an inlet, `pump` and `push`, each with its own retries.

The rest of `tasks.pump` does not import Prefect.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.base.loop_thread import OwnLoop
from tasks.errors import EncodeError, PumpError
from tasks.pump.returned import Entries, as_entries
from tasks.reservoir import Reservoir
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import once_record

__all__ = ["pump", "push"]


def may_succeed_later(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether a retry may succeed: not if the returned value can never be pushed."""
    return not isinstance(state.result(raise_on_failure=False), EncodeError | PumpError)


# No cache: each call of a pump must return current values.
_RETRIED = {
    "cache_policy": NO_CACHE,
    "retries": 3,
    "retry_delay_seconds": [1, 5, 30],
    "retry_condition_fn": may_succeed_later,
}


@task(**_RETRIED, persist_result=False)
def pump(function: Callable[..., Any], parameters: Mapping[str, Any]) -> Entries:
    """Call a pump once and return its entries. Retried when it raises; raises PumpError for a value that is no entry."""
    with contextlib.closing(OwnLoop()) as loop:
        return as_entries(loop.call(functools.partial(function, **parameters)), name=function.__name__)


@task(**_RETRIED, persist_result=False)
def push(
    reservoir: Reservoir, topic: str, entries: Entries, *, tick: str, keep: int | str | Keep | None = None
) -> list[str]:
    """Append entries in order, all or none, once per `tick`, and return their ids: a retry pushes nothing twice."""
    ids = reservoir.append(
        topic, reservoir.encode(entries, topic=topic), record=once_record(tick), keep=keep, ttl_ms=86_400_000
    )
    assert ids is not None  # nothing was expected of the record
    return ids
