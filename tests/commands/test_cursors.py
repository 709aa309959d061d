"""`sluice cursor`: shows, sets and deletes what inlets remember."""

import json

import redis

from tasks import Reservoir, codec
from tasks.group.removal import drop_inlet, drop_topic
from tasks.reservoir.cursors import CursorMove, CursorStore, Memory, cursors
from tasks.reservoir.keys import push_record
from tests.support.commands import Sluice

TRADES = "trades:00000000000000aa"


def cursor(client: redis.Redis, inlet: str = TRADES) -> CursorStore:
    return CursorStore(client, inlet)


def test_cursors_are_listed_with_their_values(sluice: Sluice, real_redis: redis.Redis) -> None:
    assert sluice("cursor") == (0, "no inlet has a cursor\n")
    cursor(real_redis).set(codec.encode({"id": 7, "etag": "x"}))
    code, shown = sluice("cursor", "trades")
    assert code == 0
    assert [cell.strip() for cell in shown.splitlines()[2].split("│")][:3] == [TRADES, "-", "{'id': 7, 'etag': 'x'}"]
    code, shown = sluice("cursor", "--json")
    assert code == 0
    assert json.loads(shown)["value"] == {"id": 7, "etag": "x"}


def test_a_cursor_is_set_to_json_or_text_and_deleted(sluice: Sluice, real_redis: redis.Redis) -> None:
    cursor(real_redis).set(codec.encode(7))
    for value, expected in (("8", 8), ('{"id": 9}', {"id": 9}), ("2026-11-30", "2026-11-30")):
        code, shown = sluice("cursor", "trades", "--set", value, "--yes")
        assert (code, f"is {expected!r}" in shown) == (0, True)
        assert codec.decode(cursor(real_redis).read().memory.value) == expected
    assert cursor(real_redis).read().version == 4
    assert sluice("cursor", "trades", "--delete", "--yes")[0] == 0
    assert cursor(real_redis).read().version == 0


def test_an_unknown_or_ambiguous_inlet_is_refused_with_the_known_ones(sluice: Sluice, real_redis: redis.Redis) -> None:
    other = TRADES.replace("aa", "bb")
    for inlet in (TRADES, other):
        cursor(real_redis, inlet).set(codec.encode(7))
    code, shown = sluice("cursor", "trade")
    assert (code, "expected an inlet with a cursor (trades), got 'trade'" in shown) == (1, True)
    code, shown = sluice("cursor", "trades", "--delete", "--yes")
    assert (code, f"name one of {TRADES}, {other}" in shown) == (1, True)
    assert sluice("cursor", other, "--delete", "--yes")[0] == 0
    assert cursor(real_redis).read().version == 1


def test_removal_of_an_inlet_or_its_topic_deletes_its_cursors_alone(real_redis: redis.Redis) -> None:
    def moved(inlet: str, topic: str) -> None:
        move = CursorMove(cursor(real_redis, inlet).key, 0, Memory(b"1"))
        reservoir = Reservoir(real_redis)
        assert reservoir.append(topic, reservoir.encode([{"n": 1}]), record=push_record(), move=move)

    names = [f"{name}:00000000000000{n}a" for n, name in enumerate(("trades", "quotes", "trades"))]
    for name, topic in zip(names, ("market", "market", "other"), strict=True):
        moved(name, topic)
    drop_inlet(real_redis, "market", "trades")
    assert list(cursors(real_redis)) == sorted(names[1:])
    drop_topic(real_redis, "market")
    assert list(cursors(real_redis)) == [names[2]]
