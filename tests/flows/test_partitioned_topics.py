"""Inlets and outlets that push by key: grids, cursors, one-shot runs, results, and the outlet that partitions a plain topic."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import redis
from streamz import Stream

from deployments.servers.redis_server import RedisServer
from flows import inlet, outlet
from tasks import Cursor, PumpError, Reservoir, SettingsError
from tasks.archive.dataset import open_archive
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import topic_keys
from tasks.reservoir.partitions import Partitioning, declared, partition_for, partition_topic
from tests.support.streams import pending, run

P = 3


@pytest.fixture(autouse=True)
def _url(redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)


def held(client: redis.Redis, topic: str) -> list[list[int]]:
    """Return the field 'n' of the entries in each partition."""
    return [
        [entry["n"] for entry in Reservoir(client).peek(partition_topic(topic, n), 1_000) if isinstance(entry, dict)]
        for n in range(P)
    ]


def expected(numbers: range) -> list[list[int]]:
    return [[n for n in numbers if partition_for(n % 7, P) == at] for at in range(P)]


def as_bar(n: int) -> dict[str, int]:
    return {"code": n % 7, "n": n}


left: list[int] = []


@inlet(topic="bars", every="20ms", partitions=P, key="code", keep="900", max_failures=1, when_failing="fail")
def bars(since: "Cursor") -> list[dict[str, int]]:
    first = since.value or 0
    since.value = first + 5
    left.pop()
    return [as_bar(n) for n in range(first, first + 5)]


def test_inlet_with_a_cursor_pushes_each_entry_once_to_the_partition_of_its_key(real_redis: redis.Redis) -> None:
    for runs in (1, 2):
        left[:] = range(4)
        with pytest.raises(PumpError, match="IndexError"):
            bars.fn()
        assert held(real_redis, "bars") == expected(range(20 * runs))
    assert declared(real_redis, "bars") == Partitioning(P, "code")
    [level] = Reservoir(real_redis).levels()
    assert (level.topic, level.keep) == ("bars", Keep(entries=900))
    assert real_redis.hget(topic_keys(partition_topic("bars", 1)).state, "keep") == b"300 0 0 0"


def test_inlet_is_refused_at_its_start_where_the_topic_is_partitioned_otherwise(real_redis: redis.Redis) -> None:
    Reservoir(real_redis).push("bars", {"code": 1}, partitions=4, key="code")
    with pytest.raises(SettingsError, match="created with, 4 by key 'code'"):
        bars.fn()


def test_one_shot_run_splits_frames(real_redis: redis.Redis) -> None:
    from tasks.pump import one_shot

    frame = pd.DataFrame([as_bar(n) for n in range(10)])
    reservoir, by = Reservoir(real_redis), Partitioning(P, "code")
    for _ in range(2):
        ids = one_shot.push.fn(reservoir, "frames", [{"rows": frame}], tick="run", by=by)
    assert len(ids) == len({partition_for(n % 7, P) for n in range(10)})
    rows = [
        [n for entry in reservoir.peek(partition_topic("frames", at), 9) for n in entry["rows"]["n"]] for at in range(P)
    ]
    assert rows == expected(range(10))


def test_results_of_an_outlet_go_to_the_partition_of_their_key(real_redis: redis.Redis) -> None:
    @outlet(topics="topic", group="group", into="copies", until="now", into_partitions=P, into_key="code")
    def repartition(source: Stream) -> Stream:
        return source

    Reservoir(real_redis).push_many("topic", [as_bar(n) for n in range(30)])
    repartition.fn()
    assert not pending(real_redis)
    assert held(real_redis, "copies") == expected(range(30))


@pytest.mark.parametrize(
    "options", [{"into_partitions": 3}, {"into_key": "code"}, {"into_partitions": 0, "into_key": "code"}], ids=str
)
def test_options_of_partitions_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="partitions"):
        outlet(topics="topic", group="group", into="bars", **options)(lambda source: source)


def test_archive_keeps_entries_of_partitions_whose_ids_are_equal_apart(real_redis: redis.Redis, tmp_path: Path) -> None:
    known: Any = real_redis
    for n in range(P):
        known.xadd(partition_topic("bars", n), {"n": n}, id="1700000000000-0")
    streams = [partition_topic("bars", n) for n in range(P)]
    run(lambda source: source.to_parquet(tmp_path, max_entries=1), real_redis, streams)
    table = open_archive(tmp_path).to_table().to_pandas()
    assert sorted(zip(table["topic"], table["n"], strict=True)) == [(stream, n) for n, stream in enumerate(streams)]
