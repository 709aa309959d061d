"""`sluice groups`: lists the consumer groups; `drop` deletes one, `reset` moves it to another position of its topic."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import redis
from rich.console import Console
from rich.text import Text

from deployments.show.as_json import line
from deployments.show.confirm import confirm
from deployments.show.stored import group_in_words
from deployments.show.tables import groups_table
from tasks.base.plain_text import printable
from tasks.checks import is_group
from tasks.group import removal
from tasks.group.rewind import rewind
from tasks.reservoir import Reservoir
from tasks.reservoir.connection import connect
from tasks.reservoir.folding import level_of, streams_of
from tasks.reservoir.groups import groups_of
from tasks.reservoir.keys import derived_from, retry_topic
from tasks.settings import redis_url

__all__ = ["drop_group", "list_groups", "reset_group"]


def list_groups(console: Console, *, as_json: bool = False) -> None:
    """Print a line for each group of each topic with its progress, including groups that read dead letters."""
    rows = list(_rows(Reservoir(connect(redis_url(), retries=0))))
    if as_json:
        for row in rows:
            print(line(row), flush=True)  # noqa: T201 - rich would wrap it
        return
    groups = [row for row in rows if "name" in row]
    console.print(groups_table(groups, width=console.width) if groups else Text("no groups yet"))
    for row in rows:
        if "unreadable" in row:
            console.print(Text(printable(row["unreadable"]), style="red"))


def drop_group(console: Console, topic: str, group: str, *, yes: bool = False) -> None:
    """Delete a group with everything that it keeps of a topic, after a confirmation.

    raises    SettingsError: no such group, a consumer of it is alive, or the answer is no; nothing was changed
    """
    client = connect(redis_url(), retries=0)
    console.print(group_in_words(topic, group, removal.kept_by_group(client, topic, group)), soft_wrap=True)
    removal.refuse_readers_of_letters(client, topic, group)
    if not yes:
        confirm(f"delete group {group!r} on topic {topic!r} with all of that for good?")
    removal.drop_group(client, topic, group)
    console.print(f"group {group!r} on topic {topic!r} is deleted", soft_wrap=True)


def reset_group(console: Console, topic: str, group: str, to: str, *, yes: bool = False) -> None:
    """Move a group to another position of its topic, after a confirmation.

    to        see `rewind`
    raises    SettingsError: no such group or position, a consumer is alive, or the answer is no; nothing was changed
    """
    client = connect(redis_url(), retries=0)
    console.print(group_in_words(topic, group, removal.kept_by_group(client, topic, group)), soft_wrap=True)
    if not yes:
        confirm(f"acknowledge what is pending, and let group {group!r} continue from {to} on topic {topic!r}?")
    rewound = rewind(client, topic, group, to)
    done = f"group {group!r} continues from {to} on topic {topic!r}; {rewound.acknowledged:,} pending entries were acknowledged"
    console.print(f"{done}; its kept state was deleted" if rewound.had_state else done, soft_wrap=True)


def _rows(reservoir: Reservoir) -> Iterator[dict[str, Any]]:
    client: redis.Redis = reservoir.client
    known: Any = client
    for topic in reservoir.topics():
        if (derived := derived_from(topic)) and derived[1] == "retry":  # counted with its topic
            continue
        level = level_of(client, topic)
        if level is None or level.unreadable:
            yield from [{"topic": topic, "unreadable": level.unreadable}] if level else []
            continue
        streams = streams_of(client, topic)
        positions = groups_of(client, topic) if level.groups and streams == [topic] else {}
        for group in level.groups:
            position = positions.get(group.name, {}).get("last-delivered-id", b"").decode()
            retries = (
                sum(known.xlen(retry_topic(stream, group.name)) for stream in streams) if is_group(group.name) else 0
            )
            about = {"position": position, "retries": retries}
            yield {"topic": topic} | asdict(group) | about
