"""`sluice topics` and `sluice groups` list, drop and reset, or refuse while consumers are alive."""

import json
import shlex

import pytest
import redis

from tasks.group.consumer import Consumer
from tests.group.test_removal import everything, pump, read
from tests.support.commands import Sluice
from tests.support.streams import pending, push_all


@pytest.fixture
def filled(real_redis: redis.Redis) -> redis.Redis:
    """Return a Redis with a topic, a group that has dead letters, and another group."""
    push_all(real_redis, "market", range(3))
    read(real_redis, "market", "movers", "fails")
    read(real_redis, "market", "archive", "crashed")
    return real_redis


def test_topics_and_groups_are_listed_as_table_and_json(sluice: Sluice, filled: redis.Redis) -> None:
    code, table = sluice("topics")
    assert code == 0
    assert "archive, movers" in table
    _, lines = sluice("topics", "--json")
    rows = {row["topic"]: row for row in map(json.loads, lines.splitlines())}
    assert rows["market"]["length"] == 3
    assert [group["name"] for group in rows["market"]["groups"]] == ["archive", "movers"]
    _, table = sluice("groups")
    assert table.count("market") == 2
    _, lines = sluice("groups", "--json")
    groups = {row["name"]: row for row in map(json.loads, lines.splitlines())}
    assert (groups["movers"]["dead"], groups["movers"]["retries"], groups["movers"]["lag"]) == (2, 0, 0)
    assert groups["archive"]["pending"] == 1
    assert groups["archive"]["position"] == filled.xrevrange("market", count=1)[0][0].decode()


def test_listing_an_empty_redis_prints_a_notice(sluice: Sluice) -> None:
    assert sluice("topics") == (0, "no topics yet\n")
    assert sluice("groups") == (0, "no groups yet\n")


@pytest.mark.odd_keys
def test_an_unreadable_topic_is_listed_with_the_reason(sluice: Sluice, filled: redis.Redis) -> None:
    filled.set("sluice:topic:market", "odd")
    for command in ("topics", "groups"):
        code, output = sluice(command)
        assert code == 0
        assert "expected key 'sluice:topic:market' to be a hash, got a string" in output


def test_groups_drop_asks_and_deletes_one_group(sluice: Sluice, filled: redis.Redis) -> None:
    before = everything(filled)
    code, output = sluice("groups", "drop", "market", "movers", answer="n\n")
    assert code == 1
    assert "group 'movers' on topic 'market': 1 pending, 2 dead letters, 0 retries" in output
    assert "expected a yes, got none; nothing was changed" in output
    assert everything(filled) == before
    code, output = sluice("groups", "drop", "market", "movers", answer="y\n")
    assert (code, "group 'movers' on topic 'market' is deleted" in output) == (0, True)
    assert [group["name"] for group in filled.xinfo_groups("market")] == [b"archive"]
    code, output = sluice("groups", "drop", "market", "movers", "--yes")
    assert code == 1
    assert "expected a group of topic 'market', which has 'archive', got 'movers'" in output


def test_topics_drop_asks_and_deletes_one_topic(sluice: Sluice, filled: redis.Redis) -> None:
    push_all(filled, "other", range(1))
    code, output = sluice("topics", "drop", "market", answer="n\n")
    assert code == 1
    assert "topic 'market': 3 entries" in output
    assert "groups 'archive', 'movers'; 2 dead letters" in output
    assert filled.xlen("market") == 3
    assert sluice("topics", "drop", "market", "--yes")[0] == 0
    assert not [key for key in everything(filled) if b"market" in key]
    code, output = sluice("topics", "drop", "market", "--yes")
    assert code == 1
    assert "expected a topic, got 'market'; the topics are: other" in output


def test_dead_letters_are_no_topic_to_drop(sluice: Sluice, filled: redis.Redis) -> None:
    code, output = sluice("topics", "drop", "market:dead:movers", "--yes")
    assert code == 1
    assert "belongs to group 'movers' of topic 'market'; `sluice dead market movers --discard` deletes it" in output


def test_nothing_is_dropped_or_reset_while_an_outlet_reads(sluice: Sluice, filled: redis.Redis) -> None:
    reader = Consumer(filled, "market", "movers", name="alive")
    reader.step(0)
    before = everything(filled)
    for arguments in (("topics", "drop", "market"), ("groups", "drop", "market", "movers")):
        code, output = sluice(*arguments, "--yes")
        assert code == 1
        assert "got alive; nothing was dropped; stop its outlet" in output
    code, output = sluice("groups", "reset", "market", "movers", "--to", "beginning", "--yes")
    assert code == 1
    assert "got alive; 0 entries were acknowledged; stop its outlet" in output
    assert everything(filled) == before
    reader.leave()


def test_a_topic_is_not_dropped_while_an_inlet_pumps(sluice: Sluice, real_redis: redis.Redis) -> None:
    pump(real_redis, "market", "quotes")
    code, output = sluice("topics", "drop", "market", "--yes")
    assert code == 1
    assert "expected no inlet to pump into it, got quotes; nothing was dropped" in output
    assert real_redis.xlen("market") == 2


def test_groups_reset_asks_and_lets_a_group_read_again(sluice: Sluice, filled: redis.Redis) -> None:
    reset = ("groups", "reset", "market", "archive", "--to", "beginning")
    assert sluice(*reset, answer="n\n")[0] == 1
    assert len(pending(filled, "market", "archive")) == 1
    code, output = sluice(*reset, answer="y\n")
    assert code == 0
    assert "group 'archive' continues from beginning on topic 'market'; 1 pending entries were acknowledged" in output
    assert not pending(filled, "market", "archive")
    again = Consumer(filled, "market", "archive")
    assert [entry["n"] for entry in again.step(0)] == [0, 1, 2]
    again.leave()


@pytest.mark.parametrize("topic", ["orders:eu", "two words", "[red]a|b[/]", "-x", "$(id)", "*", "行情", "a\"b'c\\"])
def test_commands_take_and_show_any_topic(sluice: Sluice, real_redis: redis.Redis, topic: str) -> None:
    push_all(real_redis, topic, range(3))
    read(real_redis, topic, "movers", "fails")
    read(real_redis, topic, "archive", "stopped")
    for command in ("topics", "groups"):
        assert topic in sluice(command)[1]
        assert topic in {json.loads(line)["topic"] for line in sluice(command, "--json")[1].splitlines()}
    assert topic in sluice("peek", "--", topic)[1]
    _, said = sluice("dead", "--", topic, "movers")
    command = said.partition("give all of them back")[2].splitlines()[0]
    arguments = shlex.split(command)[1:]
    code, said = sluice(*arguments[:-1], *arguments[-1:], answer="y\n")
    assert (code, real_redis.xlen(f"{topic}:dead:movers")) == (0, 0), said
    assert real_redis.xlen(f"{topic}:retry:movers") > 0
    assert sluice("groups", "reset", "--to", "beginning", "--yes", "--", topic, "archive")[0] == 0
    assert sluice("groups", "drop", "--yes", "--", topic, "archive")[0] == 0
    assert sluice("topics", "drop", "--yes", "--", topic)[0] == 0
    assert real_redis.exists(topic, f"{topic}:retry:movers") == 0
