"""The busy nodes of a pipeline, which an outlet's watch reports when the pipeline stalls."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.support.streams import dead, drain, here, push_all


@pytest.mark.parametrize("fuse", [True, False])
def test_busy_nodes_are_the_node_whose_function_runs(fake_redis: redis.Redis, fuse: bool) -> None:
    """That holds while it calls other nodes and after one has raised; once it has returned, no node is busy."""
    push_all(fake_redis, "topic", range(4))
    seen: list[tuple[str, list[str]]] = []

    async def main() -> None:
        source: Any = here(fake_redis, fuse=fuse)

        def named(name: str, act: Callable[[Any], Any] = lambda x: x) -> Callable[[Any], Any]:
            def call(x: Any) -> Any:
                seen.append((name, source.latest_run.secured.busy_nodes))
                return act(x)

            return call

        first = source.map(named("map", lambda entry: entry["n"]), stream_name="map")
        odd = first.filter(named("filter", lambda n: n % 2), stream_name="filter")
        kept = [
            odd.map(named("fails", lambda n: 1 / (n - 1)), stream_name="fails").sink(print),
            odd.sliding_window(2)
            .map(named("behind", sum), stream_name="behind")
            .sink(named("sink"), stream_name="sink"),
        ]
        source.open()
        await drain(source)
        assert source.latest_run.secured.busy_nodes == []
        del kept

    asyncio.run(main())
    assert [name for name, _ in seen[:3]] == ["map", "filter", "map"]
    assert {name for name, _ in seen} == {"map", "filter", "fails", "behind", "sink"}
    assert [(name, busy) for name, busy in seen if busy != [name]] == []
    assert len(dead(fake_redis)) == 1


@pytest.mark.parametrize("fuse", [True, False])
def test_busy_nodes_are_those_with_work_that_is_awaited(fake_redis: redis.Redis, fuse: bool) -> None:
    push_all(fake_redis, "topic", range(2))
    busy: list[list[str]] = []

    async def main() -> None:
        source: Any = here(fake_redis, fuse=fuse)
        free = asyncio.Event()
        kept = source.map(len).buffer(2).sink(lambda _: free.wait(), stream_name="slow")
        source.open()
        await drain(source, until=lambda: source.latest_run.secured.waiting > 0)
        busy.append(source.latest_run.secured.busy_nodes)
        free.set()
        await drain(source, until=lambda: not source.latest_run.in_flight)
        busy.append(source.latest_run.secured.busy_nodes)
        del kept

    asyncio.run(main())
    assert "slow" in busy[0]
    assert busy[1] == []
