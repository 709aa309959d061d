"""An inlet that Redis refuses permanently: its ticks and its run fail, and each message names the key."""

from typing import Any

import pytest
import redis

from deployments.servers.redis_server import RedisServer
from flows import inlet
from tasks import PumpError, Reservoir
from tasks.pump.ticks import Beat
from tasks.reservoir.keep import Keep
from tasks.reservoir.retention import Retention
from tests.support.pumps import Clock, ending_all, pumping, pushed, run_until
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def end_all() -> Any:
    with ending_all():
        yield


def of_another_type(client: Any) -> str:
    client.set("topic", "another program's")
    return r"expected a stream at key 'topic', got a string"


def without_a_right_to_the_topic(client: Any) -> str:
    client.acl_setuser("default", enabled=True, reset_keys=True, keys=["sluice:*"])
    return r"on the keys 'topic'"


def at_its_last_id(client: Any) -> str:
    client.xadd("topic", {"a": "b"}, id="18446744073709551615-18446744073709551615")
    return r"the last id of 'topic' is the largest"


def beat_of_another_type(client: Any) -> str:
    [key] = client.keys("sluice:beat:pump:*")
    client.set(key, "another program's")
    return r"expected a hash at key 'sluice:beat:pump:"


@pytest.mark.odd_keys
@pytest.mark.parametrize(
    "refuse", [of_another_type, without_a_right_to_the_topic, at_its_last_id, beat_of_another_type]
)
def test_a_run_whose_every_tick_is_refused_fails_and_names_the_key(real_redis: redis.Redis, refuse: Any) -> None:
    admin: Any = real_redis
    clock = Clock()
    one = pumping(admin, lambda: {"n": 1}, clock, max_failures=3, window=10.0)
    try:
        named = refuse(admin)
        run_until(one, clock, 1100.0)
        wait_until(lambda: one.step() is None, "the end")
    finally:
        admin.acl_setuser("default", enabled=True, keys=["*"])
    with pytest.raises(PumpError, match=rf"pushed nothing in this run: of 9 ticks 5 failed and 4 .*{named}"):
        one.check()
    assert one.summary.due == 9 == one.summary.failed + one.summary.missed
    assert one.summary.lost == 0


def test_a_refused_claim_is_not_counted_as_lost_by_a_dead_run(
    real_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    one = pumping(real_redis, lambda: {"n": clock.now}, clock)
    run_until(one, clock, 1002.5)
    real_redis.rename(one._beat.key, "aside")
    real_redis.set(one._beat.key, "of another type")
    run_until(one, clock, 1004.5)
    real_redis.rename("aside", one._beat.key)
    run_until(one, clock, 1006.5)
    assert pushed(real_redis) == [1001.0, 1002.0, 1005.0, 1006.0]
    assert (one.summary.due, one.summary.failed, one.summary.lost) == (6, 2, 0)
    assert "Redis refuses ticks of pump 'pump'" in caplog.text
    assert "died" not in caplog.text


def test_a_claim_that_is_refused_halfway_leaves_no_claim(client: Any) -> None:
    one = Beat(Reservoir(client), "topic", "inlet", every=1.0)
    first = one.start(100.0)
    client.set(one._open, "of another type")
    with pytest.raises(redis.ResponseError, match="tick 101 was not claimed; expected a hash at key '.*:open'"):
        one.claim(first)
    assert not client.exists(one._record(first), one._alive)
    client.delete(one._open)
    assert one.claim(first) == "claimed"


@pytest.mark.odd_keys
def test_a_declaration_that_is_refused_names_the_key(client: Any) -> None:
    client.set("sluice:topic:topic", "of another type")
    with pytest.raises(redis.ResponseError, match="expected a hash at key 'sluice:topic:topic', got a string"):
        Retention(client).declare("topic", Keep.of("1"), inlet="inlet")


def test_the_flow_of_a_refused_inlet_fails(
    redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)

    @inlet(topic="taken", every="50ms", window="500ms", max_failures=2)
    def refused() -> dict[str, int]:
        """Return an entry."""
        return {"n": 1}

    real_redis.set("taken", "another program's")
    with pytest.raises(PumpError, match="expected a stream at key 'taken', got a string"):
        refused.fn()
