"""Helpers for tests of dead letters: create them, replay them, and read the retry topic."""

from typing import Any

import redis

from tasks.group.dead_letters import DeadLetters, Letter
from tests.support.streams import run


def retrying(client: redis.Redis, topic: str = "topic", group: str = "group") -> list[tuple[str, int]]:
    """Return the content of the retry topic: each entry's original id and its number of replays."""
    found = client.xrange(f"{topic}:retry:{group}")
    return [(fields[b"retry:id"].decode(), int(fields[b"retry:times"])) for _, fields in found]


def replay_all(client: redis.Redis, **choice: Any) -> list[tuple[Letter, str]]:
    letters = DeadLetters(client, "topic", "group")
    return list(letters.replay(letters.choose(**choice), into_windows=True))


def failing(client: redis.Redis, bad: set[int], *, seen: list[Any] | None = None, **options: Any) -> None:
    """Run the group's pipeline on all entries; it raises on the numbers in `bad`."""

    def check(entry: Any) -> Any:
        if entry["n"] in bad:
            msg = f"number {entry['n']}"
            raise ValueError(msg)
        return entry

    run(lambda source: source.map(check).sink([].append if seen is None else seen.append), client, **options)
