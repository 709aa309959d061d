#!/usr/bin/env bash
# Prefect: on SQLite, every open WebSocket takes one of the server's 100 places for requests for as long as it is open
#
# Versions   prefect 3.9.1, starlette 1.10.0, anyio 4.16.0
# Expected   The limit counts requests in progress that can write to the database.
#            Docstring of `RequestLimitMiddleware`: it "limits the number of concurrent requests handled by the API", a "blunt tool
#            for limiting SQLite concurrent writes"; pull request 8903 added it for that.
# Happens    The middleware wraps every ASGI scope, WebSockets included, and these end only when the client closes them. A WebSocket
#            that sends nothing takes a place like a request that writes, so each place it takes is missing for requests until it is closed.
# Matters    A flow run that emits events (with heartbeats on: every run) keeps a WebSocket open until it ends; workers and followers of
#            logs keep others. Dozens of long runs on one server, one for each stream, say, leave few places for requests,
#            which then wait without a line in the log. With PostgreSQL the middleware is not installed.
# Known      No report found in the issues of PrefectHQ/prefect (November 2026).
# Seen       prefect 3.9.1
#            places: 100
#            taken before: 0
#            taken with 3 WebSockets that are open and send nothing: 3
#            taken after they were closed: 0
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    prefect==3.9.1 starlette==1.10.0 fastapi==0.150.0 anyio==4.16.0 pydantic==2.14.4

# No setting of this machine's Prefect, and no server: the application is called in the process.
cd "$folder"
env -i PATH="$PATH" HOME="$folder" PREFECT_HOME="$folder/prefect" "$folder/venv/bin/python" - <<'PYTHON'
import asyncio

import prefect
from prefect.server.api.server import RequestLimitMiddleware, create_app


async def open_websocket(app, path):
    """Open one WebSocket over ASGI; return a function that closes it."""
    incoming, outgoing = asyncio.Queue(), asyncio.Queue()
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "subprotocols": [],
        "client": ("client", 1),
        "server": ("server", 2),
    }
    served = asyncio.create_task(app(scope, incoming.get, outgoing.put))
    await incoming.put({"type": "websocket.connect"})
    answer = await asyncio.wait_for(outgoing.get(), 60)
    assert answer["type"] == "websocket.accept", answer

    async def close():
        await incoming.put({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait_for(served, 60)

    return close


async def main():
    app = create_app()
    middleware = app.middleware_stack = app.build_middleware_stack()
    while not isinstance(middleware, RequestLimitMiddleware):
        middleware = middleware.app
    places = middleware._limiter
    print(f"places: {places.total_tokens}")
    print(f"taken before: {places.borrowed_tokens}")
    before = places.borrowed_tokens

    closers = [await open_websocket(app, "/api/events/in") for _ in range(3)]
    opened = places.borrowed_tokens
    print(f"taken with 3 WebSockets that are open and send nothing: {opened}")
    for close in closers:
        await close()
    closed = places.borrowed_tokens
    print(f"taken after they were closed: {closed}")
    assert (places.total_tokens, before, opened, closed) == (100, 0, 3, 0), "behaviour changed"


print(f"prefect {prefect.__version__}")
asyncio.run(main())
PYTHON
