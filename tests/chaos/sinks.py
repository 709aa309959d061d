"""Outlets with sinks as real processes: each number becomes a row of a database and a post to an HTTP server.

    python -m tests.chaos.sinks URL WHERE LOG

WHERE is a JSON object: `database`, an address for SQLAlchemy, and `server`, that of an HTTP server. Started and ended like
`tests.chaos.outlet`.
"""

import json
import sys
from contextlib import suppress
from typing import Any

import asyncpg  # noqa: F401 - imported before the fork, because that takes longer than a run
from streamz import Stream

import tasks.nodes.from_redis
import tasks.nodes.to_sink  # noqa: F401 - adds to_sink to Stream
from tasks.errors import LeaseLostError
from tasks.sinks.http_post import HttpPost
from tasks.sinks.sql_upsert import SqlUpsert
from tests.chaos.forking import fork_for_each_line

LEASE = 0.5
RETRY = "10ms, 50ms, 200ms"


def value_of(n: int) -> int:
    """Return what the row of a number holds beside it."""
    return n * n + 1


def build(source: Stream, database: str, server: str) -> None:
    """Write a row for each number, known by its delivery, and post it."""
    numbers: Any = source.pluck("n")
    rows = numbers.map(lambda n: {"n": n, "value": value_of(n)})
    rows.to_sink(SqlUpsert(database, "numbers"), batch=50, timeout="20ms", retry=RETRY, hold=True)
    numbers.to_sink(HttpPost(server), timeout="20ms", retry=RETRY, hold=True, stream_name="posts")


def live(url: str, where: str) -> None:
    """Run the pipeline until killed, or taken for dead."""
    source = Stream.from_redis("numbers", group="lab", url=url, lease=LEASE)
    build(source, **json.loads(where))
    source.start()
    with suppress(LeaseLostError):
        source.join()


def main(url: str, where: str, log: str) -> None:
    """Start an outlet for each line of the standard input."""
    fork_for_each_line(lambda: live(url, where), errors=log)


if __name__ == "__main__":
    main(*sys.argv[1:])
