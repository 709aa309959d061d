"""Sentences on what a topic or a group stores, for questions before it is deleted."""

from collections.abc import Iterable

from tasks.base.quantities import counted
from tasks.group.removal import Kept
from tasks.report.levels import short_bytes
from tasks.reservoir.levels import TopicLevel

__all__ = ["group_in_words", "topic_in_words"]


def group_in_words(topic: str, group: str, kept: Kept) -> str:
    """Return what a group keeps of a topic."""
    parts = [
        f"{kept.pending:,} pending",
        counted(kept.letters, "dead letter"),
        counted(kept.retries, "retry", "retries"),
    ]
    parts += [counted(kept.records, "record of results", "records of results")] * bool(kept.records)
    return f"group {group!r} on topic {topic!r}: {', '.join(parts)}"


def topic_in_words(topic: str, level: TopicLevel | None, inlets: Iterable[str] = ()) -> str:
    """Return what a topic holds; `level` is None if only keys beside it are left."""
    if level is None:
        return f"topic {topic!r}: no stream any more, but keys beside it"
    parts = [counted(level.length, "entry", "entries")]
    parts += [short_bytes(level.bytes)] * (level.bytes is not None)
    if level.groups:
        parts.append(f"groups {', '.join(repr(group.name) for group in level.groups)}")
        parts.append(counted(sum(group.dead for group in level.groups), "dead letter"))
    if names := ", ".join(inlets):
        parts.append(f"beats of {names}")
    return f"topic {topic!r}: {'; '.join(parts)}"
