"""Sinks of streamz, and its DataFrames: an entry is acknowledged when it has arrived, or the sink is refused."""

import asyncio
from typing import Any

import pytest
import redis

from tasks import PipelineError
from tasks.nodes import join_asof as joins  # noqa: F401 - registers itself with streamz
from tasks.nodes import join_interval as interval_joins  # noqa: F401 - registers itself with streamz
from tasks.nodes import session_window as sessions  # noqa: F401 - registers itself with streamz
from tasks.nodes import time_window as windows_of_time  # noqa: F401 - registers itself with streamz
from tasks.nodes import to_sink as sinks_with_ids  # noqa: F401 - registers itself with streamz
from tests.support.nodes import PUSHED, Build, feed
from tests.support.streams import dead, drain, here, pending, push_all


@pytest.mark.parametrize(
    "build", [lambda s: s.to_mqtt("host", 1, "topic"), lambda s: s.map(int).to_mqtt("host", 1, "topic")]
)
def test_sink_that_does_not_wait_for_delivery_is_refused_by_name(fake_redis: redis.Redis, build: Build) -> None:
    async def main() -> None:
        source = here(fake_redis)
        kept = build(source)
        with pytest.raises(PipelineError, match="behind a 'to_mqtt'"):
            source.open()
        del kept

    asyncio.run(main())


def test_text_file_has_a_line_before_its_entry_is_acknowledged(fake_redis: redis.Redis, tmp_path: Any) -> None:
    file = (tmp_path / "lines.txt").open("w", buffering=1)
    feed(fake_redis, lambda s: s.map(str).sink_to_textfile(file), until=lambda: not pending(fake_redis))
    assert (tmp_path / "lines.txt").read_text().split() == [str(n) for n in PUSHED]
    file.close()


def test_websocket_gets_every_element_and_undelivered_entries_fail(fake_redis: redis.Redis) -> None:
    import websockets

    got: list[Any] = []
    ids = push_all(fake_redis, "topic", PUSHED)

    async def take(socket: Any) -> None:
        async for message in socket:
            got.append(int(message))

    async def main() -> None:
        async with websockets.serve(take, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            source = here(fake_redis)
            texts = source.pluck("n").map(lambda n: object() if n == 3 else str(n))
            kept = texts.to_websocket(f"ws://127.0.0.1:{port}")
            source.open()
            await drain(source, until=lambda: not pending(fake_redis) and len(got) == len(PUSHED) - 1)
            source.close()
            await kept.ws.close()

    asyncio.run(main())
    assert got == [n for n in PUSHED if n != 3]
    assert [letter["dead:id"] for letter in dead(fake_redis)] == [ids[3]]


def test_streaming_dataframe_is_safe_to_acknowledge_on(fake_redis: redis.Redis) -> None:
    import pandas as pd

    sums: list[Any] = []
    frames = lambda s: s.map(lambda n: pd.DataFrame({"n": [n, n]})).to_dataframe(pd.DataFrame({"n": [0]}))
    feed(fake_redis, lambda s: frames(s).n.sum().stream.sink(sums.append), until=lambda: not pending(fake_redis))
    assert sums == [0, 2, 6, 12, 20, 30, 42]
