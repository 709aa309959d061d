"""Elements from other sources in a graph, with metadata of their own."""

import asyncio
from typing import Any

import pytest
import redis
from streamz import Stream
from streamz.core import RefCounter

from tests.support.streams import dead, here, pending, push_all


@pytest.mark.parametrize("metadata", [{"from": "elsewhere"}, {"ref": RefCounter()}])
def test_element_with_foreign_metadata_is_zipped_like_any_other(fake_redis: redis.Redis, metadata: Any) -> None:
    push_all(fake_redis, "topic", range(3))
    seen: list[Any] = []

    async def main() -> None:
        source, other = here(fake_redis), Stream(asynchronous=True)
        kept = Stream.zip(source.pluck("n"), other).sink(seen.append)
        source.open()
        await source.step()
        for letter in "abc":
            other.emit(letter, metadata=[metadata])
        source.close()
        del kept

    asyncio.run(main())
    assert seen == [(0, "a"), (1, "b"), (2, "c")]
    assert pending(fake_redis) == []
    assert dead(fake_redis) == []
