"""Any client of redis-py will do, whatever it is set to."""

from typing import Any

import pytest
import redis
from streamz import Stream

from deployments.redis_server import RedisServer
from tasks import Reservoir
from tests.streams import pending, push_all
from tests.waiting import wait_until


@pytest.mark.parametrize("options", [{}, {"protocol": 3}, {"decode_responses": True}, {"protocol": 2}])
def test_a_client_of_any_protocol_and_decoding_pushes_reads_and_looks(
    redis_server: RedisServer, real_redis: redis.Redis, options: Any
) -> None:
    with redis.Redis.from_url(redis_server.url, **options) as client:
        reservoir = Reservoir(client)
        ids = [reservoir.push("topic", {"n": n}) for n in range(3)]
        source = Stream.from_redis("topic", group="group", client=client)
        source.pluck("n").map(lambda n: {"n": n}).to_redis("results")
        source.start()
        wait_until(lambda: len(reservoir.peek("results", 9)) == 3, "the results")
        source.stop()
        source.join(20)
        assert [entry["n"] for entry in reservoir.peek("results", 9)] == [0, 1, 2]
        assert [entry.id for entry in reservoir.follow("topic", ids[0], n=9, block_ms=5)] == ids[1:]
        assert reservoir.follow("topic", ids[-1], n=9, block_ms=5) == []
        assert [group.lag for level in reservoir.levels() for group in level.groups] == [0]
        assert client.ping()


class LosesTheFirstRead(redis.UnixDomainSocketConnection):
    """A connection that breaks when the first read of a group has been answered."""

    left = 1

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        self.is_read = str(args[0]).startswith("XREADGROUP")
        super().send_command(*args, **kwargs)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        reply = super().read_response(*args, **kwargs)
        if self.is_read and LosesTheFirstRead.left:
            LosesTheFirstRead.left -= 1
            self.disconnect()
            msg = "the reply was lost"
            raise redis.ConnectionError(msg)
        return reply


def test_a_client_that_repeats_commands_skips_nothing_when_the_reply_of_a_read_is_lost(
    redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LosesTheFirstRead, "left", 1)
    push_all(real_redis, "topic", range(20))
    pool = redis.ConnectionPool(connection_class=LosesTheFirstRead, path=redis_server.url.removeprefix("unix://"))
    source = Stream.from_redis("topic", group="group", client=redis.Redis(connection_pool=pool))
    seen = source.pluck("n").sink_to_list()
    source.start()
    wait_until(lambda: len(seen) == 20, "all of them")
    source.stop()
    source.join(20)
    assert not LosesTheFirstRead.left
    assert seen == list(range(20))
    assert pending(real_redis) == []
    pool.disconnect()
