"""A partitioned topic is one topic to whoever looks: its level, its entries in order of their ids, its limits."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import redis
from rich.console import Console

from deployments.commands import peek as command
from deployments.commands.status import PrefectStatus, RedisStatus, Status, _drawn
from deployments.show.as_json import level_object
from tasks import Reservoir
from tasks.base.ids import id_numbers
from tasks.reservoir.folding import fold, level_of, streams_of
from tasks.reservoir.keep import Keep
from tasks.reservoir.partitions import Partitioning, declare, partition_for, partition_topic
from tasks.reservoir.retention import Retention

P = 3


def pushed(client: Any, count: int = 12, **options: Any) -> Reservoir:
    reservoir = Reservoir(client)
    for n in range(count):
        reservoir.push("bars", {"code": n, "n": n}, partitions=P, key="code", **options)
    return reservoir


def test_streams_of_a_topic_are_its_partitions_also_for_letters(client: redis.Redis) -> None:
    assert streams_of(client, "bars") == ["bars"]
    declare(client, "bars", Partitioning(2, "code"))
    assert streams_of(client, "bars") == ["bars:{0}", "bars:{1}"]
    assert streams_of(client, "bars:dead:group") == ["bars:{0}:dead:group", "bars:{1}:dead:group"]
    assert streams_of(client, "bars:{1}") == ["bars:{1}"]


def test_level_of_a_partitioned_topic_is_one_row_with_its_partitions(client: Any) -> None:
    reservoir = pushed(client)
    Retention(client).declare("bars", Keep.of("900, 1h"), inlet="inlet:1", by=Partitioning(P, "code"))
    reservoir.push("other", {"n": 1})
    lengths = [client.xlen(partition_topic("bars", n)) for n in range(P)]
    for n in range(P):
        client.xgroup_create(partition_topic("bars", n), "group", "0", mkstream=True)
    client.xreadgroup("group", "c", {partition_topic("bars", 0): ">"})
    client.xadd("bars:{1}:dead:group", {"a": "b"})
    level, other = reservoir.levels()
    assert (level.topic, level.length, level.pushed, str(level.keep)) == ("bars", 12, 12, "900, 1h")
    assert [(each.topic, each.length) for each in level.partitions] == [
        (partition_topic("bars", n), lengths[n]) for n in range(P)
    ]
    [group] = level.groups
    assert (group.name, group.pending, group.lag, group.dead) == ("group", lengths[0], 12 - lengths[0], 1)
    ids = [entry.id for entry in reservoir.peek("bars", 100)]
    assert (level.first_id, level.last_id) == (ids[0], ids[-1])
    assert (other.topic, other.partitions) == ("other", ())
    of_bars = level_of(client, "bars")
    assert of_bars
    assert (of_bars.length, of_bars.groups[0].lag, len(of_bars.partitions)) == (12, group.lag, P)
    assert level_of(client, "nothing") is None
    assert reservoir.topics() == ["bars", "bars:dead:group", "other"]
    assert "bars:{1}:dead:group" in reservoir.streams()


def test_streams_of_another_program_are_not_folded(client: redis.Redis) -> None:
    client.xadd("bars:{0}", {"a": "b"})
    reservoir = Reservoir(client)
    assert reservoir.topics() == ["bars:{0}"]
    assert [level.topic for level in fold(client, reservoir.levels())] == ["bars:{0}"]


def test_newest_entries_of_all_partitions_are_peeked_in_order_of_their_ids(client: redis.Redis) -> None:
    reservoir = pushed(client)
    found = reservoir.peek("bars", 100)
    assert sorted(entry["n"] for entry in found if isinstance(entry, dict)) == list(range(12))
    assert [id_numbers(entry.id) for entry in found] == sorted(id_numbers(entry.id) for entry in found)
    assert all(entry.topic == partition_topic("bars", partition_for(entry["n"], P)) for entry in found)
    assert reservoir.peek("bars", 5) == found[-5:]


def test_follower_sees_each_entry_of_each_partition_once(client: redis.Redis) -> None:
    reservoir = pushed(client, 4)
    last, seen = reservoir.last_ids("bars"), list[Any]()
    for n in range(4, 20):
        reservoir.push("bars", {"code": n, "n": n}, partitions=P, key="code")
        if n % 3 == 0:
            found = reservoir.follow("bars", last, n=100, block_ms=1)
            last |= {entry.topic: entry.id for entry in found}
            seen += found
    seen += reservoir.follow("bars", last, n=100, block_ms=1)
    assert sorted(entry["n"] for entry in seen) == list(range(4, 20))


def test_follower_sees_an_entry_older_than_those_of_other_partitions(client: Any) -> None:
    """Partitions number the entries of one millisecond each for itself."""
    declare(client, "bars", Partitioning(P, "code"))
    for n, id_ in enumerate(("7-0", "7-1")):
        client.xadd(partition_topic("bars", n), {"n": "1"}, id=id_)
    reservoir = Reservoir(client)
    last = reservoir.last_ids("bars")
    assert last == {"bars:{0}": "7-0", "bars:{1}": "7-1", "bars:{2}": "0-0"}
    client.xadd("bars:{2}", {"n": "1"}, id="7-0")
    [found] = reservoir.follow("bars", last, n=9, block_ms=1)
    assert (found.topic, found.id) == ("bars:{2}", "7-0")


def test_limits_of_partitions_are_applied_without_appends(client: redis.Redis) -> None:
    reservoir, retention = pushed(client, 900), Retention(client)
    retention.declare("bars", Keep(entries=30), inlet="inlet:1", by=Partitioning(P, "code"))
    for stream in reservoir.streams():
        assert retention.trim(stream)
    assert sum(client.xlen(stream) for stream in reservoir.streams()) < 450


def test_peek_shows_entries_of_partitions(
    real_redis: redis.Redis, redis_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    pushed(real_redis, 4)
    command.peek(None, "bars", 10, as_json=True)  # type: ignore[arg-type] # JSON needs no console
    lines = capsys.readouterr().out.splitlines()
    assert sorted(json.loads(line)["fields"]["n"] for line in lines) == [0, 1, 2, 3]
    assert {json.loads(line)["topic"] for line in lines} == {
        partition_topic("bars", partition_for(n, P)) for n in range(4)
    }


def test_status_shows_partitions_where_asked(client: redis.Redis) -> None:
    pushed(client)
    [level] = Reservoir(client).levels()
    assert "partitions" not in level_object(level)
    assert [each["topic"] for each in level_object(level, partitions=True)["partitions"]] == [
        partition_topic("bars", n) for n in range(P) if client.exists(partition_topic("bars", n))
    ]
    found = Status(Path(), None, PrefectStatus(error="away"), RedisStatus(topics=(level,)))
    assert "bars:{1}" not in drawn(found, partitions=False)
    assert "bars:{1}" in drawn(found, partitions=True)


def drawn(found: Status, *, partitions: bool) -> str:
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(_drawn(found, 160, partitions=partitions))
    return console.export_text()
