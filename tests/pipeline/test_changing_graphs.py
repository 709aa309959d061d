"""Pipelines that change while entries pass through them."""

import asyncio
from typing import Any

import pytest
import redis
from streamz import Stream

from tasks import PipelineError
from tests.support.streams import dead, drain, here, pending, push_all


def at_once(_: Any) -> None:
    msg = "at once"
    raise ValueError(msg)


async def later(_: Any) -> None:
    await asyncio.sleep(0)
    msg = "later"
    raise ValueError(msg)


@pytest.mark.parametrize("fail", [at_once, later])
@pytest.mark.parametrize(("connect_to", "first"), [("the source", 3), ("a node that follows", 2)])
def test_node_connected_while_running_is_guarded_from_its_first_element(
    fake_redis: redis.Redis, connect_to: str, first: int, fail: Any
) -> None:
    ids = push_all(fake_redis, "topic", range(6))
    seen: list[int] = []

    async def main() -> None:
        source = here(fake_redis)
        kept: list[Any] = []

        def graft(entry: Any) -> Any:
            if entry["n"] == 2:
                kept.append((source if connect_to == "the source" else kept[0]).sink(fail))
            return entry

        kept.append(source.map(graft).map(lambda entry: entry["n"]))
        kept.append(kept[0].sink(seen.append))
        source.open()
        await drain(source)
        source.close()

    asyncio.run(main())
    assert seen == list(range(6))
    assert [letter["dead:id"] for letter in dead(fake_redis)] == ids[first:]
    assert pending(fake_redis) == []


def test_untrusted_node_connected_while_running_gets_no_element(fake_redis: redis.Redis) -> None:
    push_all(fake_redis, "topic", range(6))
    got: list[Any] = []

    class Unknown(Stream):
        def update(self, x: Any, who: Any = None, metadata: Any = None) -> None:
            got.append(x)

    async def main() -> None:
        source = here(fake_redis)
        kept: list[Any] = []
        kept.append(source.map(lambda entry: kept.append(Unknown(kept[0])) if entry["n"] == 2 else None))
        source.open()
        with pytest.raises(PipelineError, match="behind a 'Unknown'"):
            await drain(source)

    asyncio.run(main())
    assert got == []


def test_node_connected_while_running_gets_a_unique_name(fake_redis: redis.Redis) -> None:
    push_all(fake_redis, "topic", range(2))

    async def main() -> list[str]:
        source = here(fake_redis)
        kept: list[Any] = [source.pluck("n")]
        reading = source.open()
        await source.step()
        kept += [source.pluck("n"), source.pluck("n")]
        push_all(fake_redis, "topic", range(2))
        await source.step()
        source.close()
        return [meter.name for meter in reading.secured.meters]

    assert asyncio.run(main()) == ["from_redis", "pluck", "pluck#2", "pluck#3"]
