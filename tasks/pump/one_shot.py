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
from tasks.errors import EncodeError, PumpError, RetryLater
from tasks.pump.remembering import Remembering
from tasks.pump.returned import Entries, as_entries
from tasks.reservoir import Reservoir
from tasks.reservoir.cursors import CursorMove, CursorStore
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import once_record
from tasks.reservoir.partitions import Partitioning

__all__ = ["pump", "push"]


def may_succeed_later(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether a retry may succeed soon: not if the value can never be pushed, or the source asks for more time."""
    return not isinstance(state.result(raise_on_failure=False), EncodeError | PumpError | RetryLater)


# No cache: each call of a pump must return current values.
_RETRIED = {
    "cache_policy": NO_CACHE,
    "retries": 3,
    "retry_delay_seconds": [1, 5, 30],
    "retry_condition_fn": may_succeed_later,
}


class Recalled:
    """What an inlet remembers before one run, and the cursor of the latest try."""

    def __init__(self, remembering: Remembering, store: CursorStore) -> None:
        self.remembering = remembering
        self.store = store
        self.before = store.read()
        self._cursor = remembering.cursor(self.before.memory)

    def call(self) -> Any:
        """Call the pump with a cursor that no earlier try has changed."""
        self._cursor = self.remembering.cursor(self.before.memory)
        return self.remembering.call(self._cursor)

    def after(self, encoded: list[dict[bytes, bytes]]) -> tuple[list[dict[bytes, bytes]], CursorMove | None]:
        """Return the entries to push, and the move of the cursor, if any."""
        encoded, memory = self.remembering.after(self.before.memory, self._cursor, encoded)
        move = CursorMove(self.store.key, self.before.version, memory)
        return encoded, move if memory != self.before.memory else None


@task(**_RETRIED, persist_result=False)
def pump(function: Callable[..., Any], parameters: Mapping[str, Any], memory: Recalled | None = None) -> Entries:
    """Call a pump once and return its entries. Retried when it raises; raises PumpError for a value that is no entry.

    memory    calls the pump with its cursor instead
    """
    call = memory.call if memory else functools.partial(function, **parameters)
    with contextlib.closing(OwnLoop()) as loop:
        return as_entries(loop.call(call), name=function.__name__)


@task(**_RETRIED, persist_result=False)
def push(
    reservoir: Reservoir,
    topic: str,
    entries: Entries,
    *,
    tick: str,
    keep: int | str | Keep | None = None,
    by: Partitioning | None = None,
    memory: Recalled | None = None,
) -> list[str]:
    """Append entries in order, all or none, once per `tick`, and return their ids: a retry pushes nothing twice.

    memory    moves the cursor with them
    raises    PumpError: the cursor was moved during the run; nothing was pushed
    """
    encoded, move, record = reservoir.encode(entries, topic=topic, by=by), None, once_record(tick)
    if memory:
        encoded, move = memory.after(encoded)
    if encoded:
        ids = reservoir.append(topic, encoded, record=record, move=move, keep=keep, ttl_ms=86_400_000, by=by)
    else:
        ids = [] if not memory or not move or memory.store.move(move, topic, record=record, expected="") else None
    if ids is None:
        msg = "expected the cursor as it was when this run began, but it was moved by hand or by another run; nothing was pushed; run it again"
        raise PumpError(msg)
    return ids
