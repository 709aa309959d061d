"""`prefect server start`, with two faults of Prefect's server mended that can stop it on SQLite, and fewer rows written.

Garbage collection. The server stood still for 60 s at a time, whenever several runs changed state at once (3.8.8, aiosqlite
0.22, CPython 3.11; found by the native stack of its main thread). A failed statement leaves a cursor in a cycle of
references with its traceback. The collector ran wherever it was due, mostly in the event loop's thread; there the
cursor's end waits for the mutex of its connection, whose own thread waits for the database's write lock, whose holder
waits for the event loop to give it its next statement: until the busy timeout, 60 s. A thread of its own may wait.
It may go when aiosqlite closes its cursors on failure, or the server has a database without such locks.

Websockets. On SQLite the server lets 100 requests in at a time and counts a websocket for as long as it is open (3.9.1,
`RequestLimitMiddleware`). Workers and runs keep theirs open, so some thirty runs at once took all places for good and no request was
answered any more. Websockets pass the limit now. It may go when Prefect counts requests only, or the server has Postgres,
for which it sets no limit.

Rows. Most of what a run costs the database are its heartbeats: each is one row as an event and six as the resources that
it names, and no page shows what became of it. Automations get them as before; they are not stored.
"""

import gc
import sys
import threading
import time
from typing import Any

__all__ = ["collect_aside", "main", "spare_websockets_the_limit", "store_no_heartbeats"]

_YOUNG = 1.0  # seconds between collections of what is new
_ALL = 30  # every so many of these of everything
_HEARTBEAT = "prefect.flow-run.heartbeat"


def collect_aside(young: float = _YOUNG) -> threading.Thread:
    """Take garbage collection away from all threads and give it to one of its own, which is returned."""

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
                gc.freeze()  # what the start left is there to stay: spare it from now on

    gc.disable()
    thread = threading.Thread(target=collect, name="garbage collection", daemon=True)
    thread.start()
    return thread


def spare_websockets_the_limit() -> None:
    """Let everything but HTTP requests pass the limit on concurrent requests."""
    from prefect.server.api.server import RequestLimitMiddleware  # noqa: PLC0415 - after collect_aside()

    limited = RequestLimitMiddleware.__call__

    async def call(self: RequestLimitMiddleware, scope: Any, receive: Any, send: Any) -> None:
        answer = limited.__get__(self) if scope["type"] == "http" else self.app
        await answer(scope, receive, send)

    RequestLimitMiddleware.__call__ = call


def store_no_heartbeats() -> None:
    """Keep the heartbeats of runs out of the database."""
    from prefect.server.events.services import event_persister  # noqa: PLC0415 - as above

    write = event_persister.write_events  # pyright: ignore[reportPrivateImportUsage]

    async def write_others(session: Any, events: list[Any]) -> None:
        if others := [event for event in events if event.event != _HEARTBEAT]:
            await write(session=session, events=others)

    event_persister.write_events = write_others  # pyright: ignore[reportPrivateImportUsage]


def main() -> None:
    """Run Prefect's server with the arguments given."""
    from prefect.cli import app  # noqa: PLC0415 - after collect_aside()

    sys.argv = ["prefect", "--no-prompt", "server", "start", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    collect_aside()
    spare_websockets_the_limit()
    store_no_heartbeats()
    main()
