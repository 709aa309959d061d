"""Outlets that write to a database and post to an HTTP server, killed under load. CHAOS_KILLS=200 for `make chaos`."""

import asyncio
import json
import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from deployments.servers.redis_server import RedisServer
from tasks.reservoir import Reservoir
from tests.chaos.outlet import Outlets
from tests.chaos.sinks import value_of
from tests.support.postgres import postgres_server
from tests.support.waiting import wait_until

KILLS = int(os.environ.get("CHAOS_KILLS", "4"))
BEHIND = 300  # numbers: a backlog that is never worked off shows nothing more
NUMBERS = sa.Table(
    "numbers",
    sa.MetaData(),
    sa.Column("delivery_id", sa.String, primary_key=True),
    sa.Column("n", sa.Integer),
    sa.Column("value", sa.BigInteger),
)


class Server(ThreadingHTTPServer):
    """Takes each key once. Now and then it fails before or after it has taken a post, asks for time, or gives no answer.

    taken     the bodies that were accepted, by key
    repeats   how often a key came again after it was accepted, and was answered without an effect
    unequal   keys that came again with another body
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.chance = random.Random(3)
        self.lock = threading.Lock()
        self.taken: dict[str, Any] = {}
        self.repeats = 0
        self.unequal: set[str] = set()
        self.answers: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def take(self, key: str, body: Any) -> None:
        with self.lock:
            if key in self.taken:
                self.repeats += 1
                if self.taken[key] != body:
                    self.unequal.add(key)
            self.taken.setdefault(key, body)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        key = self.headers["Idempotency-Key"]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fate = self.server.chance.random()
        outcome = "failed" if fate < 0.02 else "busy" if fate < 0.04 else "lost" if fate < 0.06 else "taken"
        self.server.answers[outcome] += 1
        if outcome in ("taken", "lost"):
            self.server.take(key, body)
        if outcome == "lost":
            self.close_connection = True
            self.connection.close()
            return
        self.send_response({"taken": 200, "failed": 500, "busy": 429}[outcome])
        if outcome == "busy":
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def handle(self) -> None:
        with suppress(ConnectionError):  # of a killed outlet
            super().handle()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Table:
    """The table of numbers in a database."""

    def __init__(self, address: str) -> None:
        self._address = address

    def on(self, act: Any) -> Any:
        """Return the result of a function that gets a connection."""
        if self._address.startswith("sqlite"):
            engine = sa.create_engine(self._address)
            with engine.begin() as connection:
                found = act(connection)
            engine.dispose()
            return found
        return asyncio.run(self._on(act))

    async def _on(self, act: Any) -> Any:
        engine = create_async_engine(self._address)
        async with engine.begin() as connection:
            found = await connection.run_sync(act)
        await engine.dispose()
        return found

    def make(self) -> None:
        self.on(NUMBERS.metadata.create_all)

    def count(self) -> int:
        return self.on(lambda connection: connection.scalar(sa.select(sa.func.count()).select_from(NUMBERS)))

    def rows(self) -> list[tuple[Any, ...]]:
        return self.on(lambda connection: [tuple(row) for row in connection.execute(sa.select(NUMBERS))])


@pytest.fixture(params=["sqlite", "postgresql"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Table]]:
    if request.param == "sqlite":
        address = f"sqlite:///{tmp_path}/numbers.db"
        yield address, Table(address)
        return
    with postgres_server() as address:
        yield address, Table(address)


@pytest.mark.timeout(120 + 8 * KILLS)
def test_rows_and_posts_of_killed_outlets_are_there_once(
    table: tuple[str, Table], server: Server, redis_server: RedisServer, real_redis: redis.Redis, tmp_path: Path
) -> None:
    (address, numbers), known = table, Reservoir(real_redis)
    numbers.make()
    real_redis.xgroup_create("numbers", "lab", id="0", mkstream=True)
    chance, ids, in_flight = random.Random(1), [], []

    def push_on() -> None:
        if len(ids) - len(server.taken) < BEHIND:
            ids.extend(known.push_many("numbers", [{"n": len(ids) + i} for i in range(5)]))

    where = json.dumps({"database": address, "server": server.url})
    with Outlets(redis_server.url, where, tmp_path, module="tests.chaos.sinks") as outlets:
        for _ in range(KILLS):
            outlet = outlets.start()
            end = len(server.taken) + chance.randrange(80)  # some die at once, others at work
            wait_until(lambda end=end: push_on() or len(server.taken) >= end, "the kill")
            os.kill(outlet, signal.SIGKILL)
            in_flight.append(real_redis.xinfo_groups("numbers")[0]["pending"])
        outlets.start()
        wait_until(lambda: len(server.taken) >= len(ids), "the last posts", deadline=60 + KILLS)
        wait_until(lambda: numbers.count() >= len(ids), "the last rows", deadline=60)
        wait_until(lambda: not real_redis.xinfo_groups("numbers")[0]["pending"], "the acknowledgements")
        errors = outlets.seen.read_text()
    sys.stdout.write(
        f"{address.partition(':')[0]}: {KILLS} kills, {len(ids)} entries, {sum(in_flight)} in flight, {server.repeats} posts "
        f"again, answers {dict(server.answers)}\n"
    )
    expected = {f"numbers/{id_}": n for n, id_ in enumerate(ids)}
    rows = numbers.rows()
    assert len(rows) == len(ids)
    assert {key: (n, value) for key, n, value in rows} == {key: (n, value_of(n)) for key, n in expected.items()}
    assert server.taken == {f"{key}@posts": n for key, n in expected.items()}
    assert server.unequal == set()
    assert errors == ""
    assert not real_redis.exists("numbers:dead:lab")
