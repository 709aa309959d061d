"""Retention around old pending entries: a sweep skips them, and a later one removes them."""

from typing import Any

from tasks import Reservoir
from tasks.reservoir.levels import _LEVEL, Levels
from tasks.reservoir.reservoir import _APPEND
from tasks.reservoir.retention import Retention, mark_seen
from tests.reservoir.test_retention import replaced
from tests.support.streams import pending

SIZE = 1_500  # two of these fill a node, and a trim keeps a node while one of its entries stays


def read(client: Any, count: int) -> list[str]:
    reply = client.xreadgroup("group", "consumer", {"topic": ">"}, count=count)
    return [id_.decode() for _, entries in reply for id_, _ in entries]


def push_and_finish(client: Any, reservoir: Reservoir, n: int, *, keep: int = 10) -> None:
    for _ in range(n):
        reservoir.push("topic", {"b": b"x" * SIZE}, keep=keep)
        client.xack("topic", "group", *read(client, 1))


def test_pending_entry_that_a_sweep_skipped_is_removed_once_finished(client: Any) -> None:
    reservoir = Reservoir(client)
    client.xgroup_create("topic", "group", "0", mkstream=True)
    reservoir.push_many("topic", [{"b": b"x" * SIZE}] * 40)
    held = read(client, 40)
    push_and_finish(client, reservoir, 20)
    assert client.xlen("topic") >= 50
    client.xack("topic", "group", *held[1:])
    push_and_finish(client, reservoir, 20)
    assert pending(client) == held[:1]
    assert client.xrange("topic", count=1)[0][0].decode() == held[0]
    assert client.xlen("topic") <= 1 + 10 + 2 * 3  # a node, and the entries of two pushes before retention runs again


def test_lag_is_known_again_once_the_group_has_passed_the_next_sample(client: Any) -> None:
    reservoir, levels = Reservoir(client), Levels(client)
    reservoir._append = replaced(_APPEND, "since >= 64", "since >= 3").on(client)
    levels._level = replaced(_LEVEL, "n > 2000", "n > 13").on(client)
    client.xgroup_create("topic", "group", "0", mkstream=True)
    push_and_finish(client, reservoir, 80, keep=70)
    assert client.xlen("topic") < 80
    reservoir.push_many("topic", [{"n": n} for n in range(30)])

    def lag() -> int | None:
        level = levels.of("topic")
        assert level is not None
        return level.groups[0].lag

    assert lag() == 30
    client.xdel("topic", *[id_ for id_, _ in client.xrange("topic", count=7)][3:])
    for _ in range(3):  # one sweep takes the next sample
        reservoir.push("topic", {"n": 1})
        assert lag() is None  # too many entries to count on either side
    for n in range(20):  # from a client that takes no samples
        client.xadd("topic", {"n": n})
    read(client, 30)
    assert lag() == 3 + 20


def test_group_that_reads_during_the_check_is_not_forgotten(client: Any, monkeypatch: Any) -> None:
    client.xgroup_create("topic", "group", "0", mkstream=True)
    client.hset("sluice:groups:topic", "group", 1)
    client.pexpire("sluice:groups:topic", 60_000)
    retention = Retention(client)

    def idle(topic: str, group: bytes, longest: int) -> int:
        monkeypatch.undo()
        mark_seen(client, topic, group.decode())
        return longest

    monkeypatch.setattr(retention, "_idle", idle)
    assert retention.forget("topic", after_ms=1_000_000) == []
    assert int(client.hget("sluice:groups:topic", "group")) > 0


def test_deleted_topic_has_no_groups_to_forget(client: Any) -> None:
    assert Retention(client).forget("topic", after_ms=0) == []
