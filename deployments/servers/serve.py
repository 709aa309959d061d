"""Run `prefect server start` with workarounds for two faults that can block the server on SQLite, and with fewer rows.

Garbage collection. The server blocked for 60 s at a time when several runs changed state at once (found with 3.8.8 in the
native stack of its main thread). A failed statement leaves a cursor in a reference cycle with its traceback (still so with
Prefect 3.9.1, SQLAlchemy 2.1.9 and aiosqlite 0.22.1). The collector mostly ran in the event loop's thread, where the cursor's finalizer waits for the mutex of its
connection. That connection's thread waits for the database's write lock, and the holder of the lock waits for the event
loop to send its next statement, until the busy timeout of 60 s. Here, a separate thread collects, and may wait.
Remove this when aiosqlite closes its cursors on failure, or if the server uses a database without such locks.

Websockets. On SQLite the server admits 100 requests at a time, and counts a websocket for as long as it is open (3.9.1,
`RequestLimitMiddleware`). Workers and runs keep websockets open, so that some thirty runs used up the limit permanently and
the server answered no more requests. Here, websockets bypass the limit.
Remove this when Prefect counts requests only, or if the server uses Postgres, which has no such limit.

Names. Deployments are found by their old names as well (deployments/servers/old_names.py).

Rows. Most rows of a run are heartbeats: one row for each event and six for the resources that it names, which no page
shows. Automations still receive heartbeats, but they are not stored.
"""

import gc
import sys
import threading
import time
from typing import Any

from deployments.servers.old_names import find_by_old_names

__all__ = ["collect_aside", "main", "spare_websockets_the_limit", "store_no_heartbeats"]

_YOUNG = 1.0  # seconds between collections of young objects
_ALL = 30  # every so many collections, all objects
_HEARTBEAT = "prefect.flow-run.heartbeat"


def collect_aside(young: float = _YOUNG) -> threading.Thread:
    """Run garbage collection in one dedicated thread only, and return that thread."""

    def collect() -> None:
        turn = 0
        while True:
            time.sleep(young)
            turn += 1
            if turn % _ALL:
                gc.collect(1)
            else:
                gc.collect()
            if turn == _ALL:
                gc.freeze()  # skip the objects loaded so far in later collections

    gc.disable()
    thread = threading.Thread(target=collect, name="garbage collection", daemon=True)
    thread.start()
    return thread


def spare_websockets_the_limit() -> None:
    """Exempt websockets from the limit on concurrent requests."""
    from prefect.server.api.server import RequestLimitMiddleware  # noqa: PLC0415 - after collect_aside()

    limited = RequestLimitMiddleware.__call__

    async def call(self: RequestLimitMiddleware, scope: Any, receive: Any, send: Any) -> None:
        answer = limited.__get__(self) if scope["type"] == "http" else self.app
        await answer(scope, receive, send)

    RequestLimitMiddleware.__call__ = call


def store_no_heartbeats() -> None:
    """Store no heartbeats of runs in the database."""
    from prefect.server.events.services import event_persister  # noqa: PLC0415 - as above

    write = event_persister.write_events  # pyright: ignore[reportPrivateImportUsage]

    async def write_others(session: Any, events: list[Any]) -> None:
        if others := [event for event in events if event.event != _HEARTBEAT]:
            await write(session=session, events=others)

    event_persister.write_events = write_others  # pyright: ignore[reportPrivateImportUsage]


def main() -> None:
    """Run Prefect's server with the arguments of this process."""
    from prefect.cli import app  # noqa: PLC0415 - after collect_aside()

    sys.argv = ["prefect", "--no-prompt", "server", "start", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    collect_aside()
    spare_websockets_the_limit()
    store_no_heartbeats()
    find_by_old_names()
    main()
