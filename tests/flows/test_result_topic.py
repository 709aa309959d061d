"""The topic of an outlet's results: its limits, the form of results, and limits that other writers declare."""

from typing import Any

import pandas as pd
import pytest
import redis
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from flows import inlet, outlet
from flows.runtime import result_topic
from flows.runtime.result_topic import ResultTopic
from tasks import Reservoir, SettingsError
from tasks.reservoir.entry import TIME_FIELD
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import topic_keys
from tasks.reservoir.retention import Retention
from tests.support.streams import pending, push_all


@pytest.fixture(autouse=True)
def _url(redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)


def stored(client: redis.Redis, topic: str) -> list[dict[bytes, bytes]]:
    known: Any = client
    return [{name: data for name, data in fields.items() if name != TIME_FIELD} for _, fields in known.xrange(topic)]


def test_results_have_the_field_limits_and_compression_of_their_outlet(real_redis: redis.Redis) -> None:
    @outlet(
        topics="topic",
        group="group",
        into="frames",
        until="now",
        into_field="frame",
        into_keep="20, 1h",
        into_when_full="wait",
        into_compression="zstd",
    )
    def frames(source: Stream) -> Stream:
        return source.pluck("n").map(lambda n: pd.DataFrame({"n": [n] * 5_000}))

    push_all(real_redis, "topic", range(60))
    frames.fn()
    assert not pending(real_redis)
    entries = stored(real_redis, "frames")
    assert len(entries) < 60, "no group reads them, so that nothing waits"
    assert {name for fields in entries for name in fields} == {b"frame"}
    assert max(len(fields[b"frame"]) for fields in entries) < 5_000, "40,000 bytes without compression"
    assert Reservoir(real_redis).levels()[0].keep == Keep.of("20, 1h", "wait")


def test_runs_without_these_options_push_under_the_topics_name(real_redis: redis.Redis) -> None:
    @outlet(topics="topic", group="group", into="plain", until="now")
    def plain(source: Stream) -> Stream:
        return source.pluck("n")

    push_all(real_redis, "topic", range(2))
    plain.fn(into_field="")  # as the form sends it
    plain.fn(group="other", into="elsewhere", into_field="n")
    assert stored(real_redis, "plain") == [{b"plain": b"0"}, {b"plain": b"1"}]
    assert stored(real_redis, "elsewhere") == [{b"n": b"0"}, {b"n": b"1"}]


def test_an_outlet_is_refused_at_its_start_where_another_writer_keeps_otherwise(real_redis: redis.Redis) -> None:
    @outlet(topics="topic", group="group", into="shared-results", until="now")
    def results(source: Stream) -> Stream:
        return source

    push_all(real_redis, "topic", range(2))
    Retention(real_redis).declare("shared-results", Keep.of("1h"), inlet="quotes:1")
    with pytest.raises(
        SettingsError, match=r"topic 'shared-results'.*got '10000, 500MB' from the outlet with group 'group'"
    ):
        results.fn()
    assert not real_redis.exists("shared-results")
    results.fn(into_keep="1h")
    assert real_redis.xlen("shared-results") == 2


def test_an_inlet_is_refused_at_its_start_where_a_running_outlet_keeps_otherwise(real_redis: redis.Redis) -> None:
    Retention(real_redis).declare("mixed", Keep.of(5), group="movers")

    @inlet(topic="mixed", every="50ms", window="200ms", keep=7)
    def ones() -> dict[str, int]:
        """Return an entry."""
        return {"n": 1}

    with pytest.raises(SettingsError, match=r"got '7' from 'ones:.*' and '5' from the outlet with group 'movers'"):
        ones.fn()


def test_a_declaration_is_renewed_each_minute_while_the_outlet_runs(
    real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(result_topic.time, "monotonic", lambda: now)
    topic = ResultTopic("results", Keep.of(5), group="movers")
    topic.declare()
    state = topic_keys("results").state
    for seconds, is_renewed in ((59, False), (60, True)):
        now = 100.0 + seconds
        real_redis.delete(state)
        topic.renew()
        assert real_redis.exists(state) == is_renewed
    now += 60
    real_redis.delete(state)
    Retention(real_redis).declare("results", Keep.of(6), inlet="quotes:1")
    topic.renew()  # the inlet was refused, or began after an outage: this outlet continues
    topic.close()
    ResultTopic("results", Keep.of(6), group="sink only").renew()  # its outlet has no results
    assert real_redis.hkeys(state) == [b"inlet:quotes:1", b"keep"]
