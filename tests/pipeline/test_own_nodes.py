"""Custom node types, admitted with `trust`."""

from functools import partial
from typing import Any

import redis
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from tasks.pipeline import trust
from tests.support.streams import pending, push_all


@partial(trust, keeps=True)
class Pairs(Stream):
    """Emits elements in pairs."""

    kept: tuple[Any, Any] | None = None

    def update(self, x: Any, who: Any = None, metadata: Any = None) -> Any:
        if self.kept is None:
            self._retain_refs(metadata)
            self.kept = x, metadata
            return []
        (first, others), self.kept = self.kept, None
        emitted = self._emit((first, x), [*others, *metadata])
        self._release_refs(others)
        return emitted


def test_bounded_replay_ends_while_a_custom_window_keeps_an_entry(
    real_redis: redis.Redis, redis_server: RedisServer
) -> None:
    ids = push_all(real_redis, "topic", range(5))
    source = Stream.from_redis("topic", group="group", url=redis_server.url, until="now")
    pairs = Pairs(source.pluck("n"))
    seen = pairs.sink_to_list()
    source.start()
    source.join(20)
    assert seen == [(0, 1), (2, 3)]
    assert pending(real_redis) == ids[4:]
