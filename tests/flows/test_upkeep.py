"""Flows for the operator, on a real Prefect server and a real Redis."""

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from prefect.client.orchestration import get_client

from deployments.servers.redis_server import RedisServer
from flows import upkeep
from tasks import Reservoir, SettingsError
from tasks.archive.dataset import rows_of, write
from tasks.reservoir.entry import Entry
from tasks.reservoir.history import History
from tests.support.streams import push_all, run
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("prefect")


@pytest.fixture(autouse=True)
def reservoir(redis_server: RedisServer, real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Reservoir:
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    return Reservoir(real_redis)


def fetched(path: str, body: dict[str, Any]) -> Any:
    with get_client(sync_client=True) as client:
        return client._client.post(path, json=body).json()


def artifact(key: str) -> str:
    [latest] = fetched("/artifacts/latest/filter", {"artifacts": {"key": {"any_": [key]}}})
    return latest["data"]


def events(since: datetime) -> set[tuple[str, str, int]]:
    wanted = {
        "event": {"prefix": ["sluice.topic.", "sluice.entry.", "sluice.reservoir."]},
        "occurred": {"since": since.isoformat()},
    }
    found = fetched("/events/filter", {"filter": wanted, "limit": 50})["events"]
    return {(each["event"], each["related"][0]["prefect.resource.name"], each["payload"]["entries"]) for each in found}


def test_levels_leave_an_artifact_and_events_of_problems(reservoir: Reservoir, real_redis: redis.Redis) -> None:
    began = datetime.now(UTC)
    push_all(real_redis, "topic", range(5))
    run(lambda source: source.pluck("missing").sink(print), real_redis, group="failing")
    real_redis.xgroup_create("topic", "slow", "0")
    real_redis.hincrby("sluice:spilled:topic", "slow", 7)
    real_redis.pexpire("sluice:spilled:topic", 60_000)
    assert upkeep.levels(max_lag=3) == "1 topics, 2 groups; 3 alarms"
    push_all(real_redis, "topic", range(2))
    upkeep.levels(max_lag=3)
    expected = {
        ("sluice.topic.lagging", "slow", 5),
        ("sluice.topic.lagging", "slow", 7),
        ("sluice.entry.dead", "failing", 5),  # once: the second run found no new ones
        ("sluice.reservoir.spilled", "slow", 7),
    }
    wait_until(lambda: events(began) == expected, "the events of both runs")
    text = artifact("sluice-levels")
    assert re.search(r"\| topic \| slow \| 7 \| [0-9.]+ \w+ \| 0 \| - \| 0 \| 0 \| 7 \|", text)
    assert re.search(r"\| topic \| failing \| 2 \| [0-9.]+ \w+ \| 0 \| - \| 0 \| 5 \| 0 \|", text)
    assert "## Alarms" in text
    assert 'title "slow on topic"' in text
    assert "line [5, 7]" in text
    assert "plotColorPalette" in text  # else the line would be pale yellow on light grey
    assert [sample.lags["topic", "slow"] for sample in History(real_redis).latest(9)] == [5, 7]
    assert real_redis.pttl("sluice:levels") > 0
    assert reservoir.topics() == ["topic", "topic:dead:failing"]


def test_trim_removes_entries_that_a_forgotten_group_retained(reservoir: Reservoir, real_redis: redis.Redis) -> None:
    for n in range(3):
        real_redis.xadd("topic", {"n": n, "big": b"x" * 5_000}, id=f"{n + 1}-0")
    real_redis.xgroup_create("topic", "group", "0")
    real_redis.xreadgroup("group", "consumer", {"topic": ">"})
    reservoir.push("topic", {"n": 3}, keep="1h")
    assert upkeep.trim() == "0 entries removed"
    wait_until(lambda: real_redis.xinfo_consumers("topic", "group")[0]["idle"] > 20, "the group to be idle")
    real_redis.hset("sluice:groups:topic", "group", 1)
    real_redis.pexpire("sluice:groups:topic", 60_000)
    assert upkeep.trim(forget_after="10ms") == "3 entries removed"


@pytest.mark.odd_keys
def test_levels_and_trim_go_on_past_an_unreadable_topic(reservoir: Reservoir, real_redis: redis.Redis) -> None:
    for topic in ("alpha", "beta"):
        push_all(real_redis, topic, range(3))
        real_redis.xgroup_create(topic, "group", "0")
        reservoir.push(topic, {"n": 3}, keep="1h")
    real_redis.hset("sluice:topic:alpha", "keep", "x")
    real_redis.pexpire("sluice:topic:alpha", 60_000)
    real_redis.set("alpha:dead:group", "x")
    real_redis.set("sluice:levels", "x")
    assert upkeep.levels() == "2 topics, 1 groups; 1 unreadable"
    assert "| alpha | topic 'alpha' cannot be read: expected key 'alpha:dead:group' to be a " in artifact(
        "sluice-levels"
    )
    assert re.search(r"\| beta \| group \| 4 \| [0-9.]+ \w+ \| 0 \|", artifact("sluice-levels"))
    assert upkeep.trim() == "0 entries removed; 1 unreadable"


def test_rewind_sets_a_group_back_and_reports_acknowledged_entries(real_redis: redis.Redis) -> None:
    push_all(real_redis, "topic", range(3))
    real_redis.xgroup_create("topic", "group", "0")
    real_redis.xreadgroup("group", "consumer", {"topic": ">"}, count=2)
    assert upkeep.rewind("topic", "group", "beginning").endswith("; 2 pending entries were acknowledged")
    with pytest.raises(SettingsError, match="got 'yesterday-ish'"):
        upkeep.rewind("topic", "group", "yesterday-ish")


def test_dead_letters_are_shown_and_replayed(real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = push_all(real_redis, "topic", range(3))
    run(lambda source: source.pluck("a|<b>").sink(print), real_redis)
    assert upkeep.replay_dead_letters("topic", "group", limit=2, dry_run=True).endswith(
        "2 dead letters chosen, 0 replayed, 0 skipped; 3 are left"
    )
    assert not real_redis.exists("topic:retry:group")
    outcome = upkeep.replay_dead_letters("topic", "group", exception="KeyError", ids=["1-0", *keys(real_redis)[:2]])
    assert outcome.endswith("3 dead letters chosen, 2 replayed, 1 skipped; 1 are left")
    text = artifact("sluice-dead-letters")
    assert text.startswith("1 not there, 2 replayed\n")
    assert f"| {ids[1]} | pluck | KeyError('a\\|\\<b\\>') | 0 | replayed |" in text

    def interrupted(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError

    monkeypatch.setattr("tasks.group.dead_letters.DeadLetters.replay", interrupted)
    with pytest.raises(redis.ConnectionError):
        upkeep.replay_dead_letters("topic", "group")
    assert artifact("sluice-dead-letters").startswith("1 not confirmed\n")
    with pytest.raises(SettingsError, match="got group 'gruop' of topic 'topic': 'topic' has 'group'"):
        upkeep.replay_dead_letters("topic", "gruop")


def test_a_replay_into_windows_needs_the_parameter_that_confirms_it(real_redis: redis.Redis) -> None:
    push_all(real_redis, "topic", range(2))
    run(lambda source: source.partition(2).pluck("missing"), real_redis)
    assert upkeep.replay_dead_letters("topic", "group", dry_run=True).endswith(
        "2 dead letters chosen, 0 replayed, 0 skipped; 2 are left"
    )
    with pytest.raises(SettingsError, match=r"combines entries \(partition\).*; nothing was replayed"):
        upkeep.replay_dead_letters("topic", "group")
    assert artifact("sluice-dead-letters").startswith("2 not confirmed\n")
    outcome = upkeep.replay_dead_letters("topic", "group", into_windows=True)
    assert outcome.endswith("2 dead letters chosen, 2 replayed, 0 skipped; 0 are left")


def test_compact_merges_the_small_files_of_days_that_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_STATE_DIR", str(tmp_path))
    assert upkeep.compact() == f"there is no archive at {tmp_path / 'archive'}"
    long_ago, now = 1_700_000_000_000, round(time.time() * 1000)
    for at in (long_ago, now):
        for n in range(3):
            write(tmp_path / "archive", rows_of(Entry({"n": n}, topic="topic", id=f"{at + n}-0")))
    assert re.fullmatch(r"1 day: 3 files of [0-9.]+ kB became 1 of [0-9.]+ kB", upkeep.compact())
    assert upkeep.compact() == "no small files to merge"
    assert upkeep.compact(today=True).startswith("1 day: 3 files")
    with pytest.raises(SettingsError, match="file_size: expected a size such as '128MB', got '5'"):
        upkeep.compact(file_size="5")


def keys(client: redis.Redis) -> list[str]:
    return [key.decode() for key, _ in client.xrange("topic:dead:group")]
