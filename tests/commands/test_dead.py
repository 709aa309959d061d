"""`sluice dead`: shows, replays and discards dead letters."""

import io
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
import redis
from rich.console import Console

from deployments.cli import main
from deployments.commands.dead import dead
from deployments.servers.redis_server import RedisServer
from tasks.reservoir.entry import Entry
from tests.support.streams import push_all, run


def test_dead_shows_node_error_and_replay_command(
    real_redis: redis.Redis,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    push_all(real_redis, "market", [1, 0, "x"])
    run(lambda source: source.map(reciprocal).sink(lambda _: None), real_redis, "market", group="movers")
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)

    def listing(n: int = 10, **options: Any) -> str:
        dead(Console(width=160), "market", "movers", n, **options)
        return capsys.readouterr().out

    table = listing()
    assert table.index("TypeError") < table.index("ZeroDivisionError('division by zero')"), "the newest first"
    assert "2 of 2" in table
    assert "sluice dead market movers --node 'map(reciprocal)' --replay" in table
    assert listing(choice={"exception": "TypeError"}).count("map(reciprocal)") == 2, (
        "a letter, and the command for its node"
    )
    assert "for which that holds" in listing(choice={"node": "sink"})
    assert "1 of 2 chosen, 2 in all" in listing(1, choice={"node": "map(reciprocal)"})
    assert 'return 1 / entry["n"]' in listing(1, tracebacks=True)
    (letter,) = map(json.loads, listing(1, as_json=True).splitlines())
    assert letter["node"] == "map(reciprocal)"
    assert letter["traceback"].startswith("Traceback")
    assert (letter["attempts"], letter["deliveries"]) == (1, 1)


@pytest.fixture
def windowed(real_redis: redis.Redis, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    """Return a Redis with three dead letters of a window and one of a plain map."""
    monkeypatch.setenv("SLUICE_REDIS_URL", redis_server.url)
    push_all(real_redis, "market", [0, 0, 0])
    run(lambda source: source.partition(3).map(len).map(reciprocal), real_redis, "market", group="windows")
    run(lambda source: source.filter(lambda _: False), real_redis, "market", group="movers")
    push_all(real_redis, "market", [0])
    run(lambda source: source.map(reciprocal), real_redis, "market", group="movers")
    return real_redis


@pytest.mark.parametrize(
    ("group", "arguments", "answer", "code", "shown", "left"),
    [
        (
            "windows",
            ["--discard"],
            "n\n",
            1,
            "discard 3 dead letters of topic 'market' and group 'windows' for good?",
            3,
        ),
        ("windows", ["--discard"], "", 1, "expected a yes, got none; nothing was changed", 3),
        ("windows", ["--discard", "--limit", "2"], "y\n", 0, "2 discarded; 1 are left", 1),
        ("windows", ["--discard", "--yes", "--node", "sink"], "", 0, "none was chosen; 3 are left", 3),
        ("windows", ["--discard", "--yes", "1-1"], "", 0, "1 not there; 3 are left", 3),
        (
            "windows",
            ["--replay"],
            "n\n",
            1,
            "of 3 dead letters, 3 come from a pipeline that combines entries (partition)",
            3,
        ),
        ("windows", ["--replay", "--yes"], "", 0, "3 replayed; 0 are left", 0),
        ("movers", ["--replay"], "y\n", 0, "replay 1 dead letters of topic 'market' and group 'movers'? [y/N]", 0),
        ("movers", ["--replay", "--discard"], "", 2, "expected --replay or --discard, got both", 1),
        ("movers", ["--discard", "--yes", "--json"], "", 0, '"now": "discarded"', 0),
    ],
)
def test_dead_replays_and_discards_chosen_letters_once_confirmed(
    windowed: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    group: str,
    arguments: list[str],
    answer: str,
    code: int,
    shown: str,
    left: int,
) -> None:
    monkeypatch.setattr(sys, "argv", ["sluice", "dead", "market", group, *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert (end.value.code or 0, windowed.xlen(f"market:dead:{group}")) == (code, left), out + err
    assert shown in out + err
    replayed = windowed.xlen(f"market:retry:{group}")
    assert replayed == (
        3 if "replayed" in shown else 1 if group == "movers" and "--replay" in arguments and not code else 0
    )


def test_dead_of_an_unknown_group_lists_the_existing_ones(
    refusal: Callable[..., str], real_redis: redis.Redis, redis_server: RedisServer
) -> None:
    push_all(real_redis, "market", [1])
    real_redis.xgroup_create("market", "movers")
    nobody = refusal("dead", "market", "nobody", SLUICE_REDIS_URL=redis_server.url)
    assert "got group 'nobody' of topic 'market': 'market' has 'movers'" in nobody


def reciprocal(entry: Entry) -> float:
    return 1 / entry["n"]
