"""What is said of a partitioned topic, said of all its partitions: their streams, and their levels as one."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import redis

from tasks.base.ids import id_numbers
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import derived_from, partitions_key, topic_keys
from tasks.reservoir.levels import GroupLevel, Levels, TopicLevel
from tasks.reservoir.partitions import declared
from tasks.reservoir.topic_names import partition_of, partition_topic

__all__ = ["by_topic", "fold", "level_of", "streams_of"]


def streams_of(client: redis.Redis, topic: str) -> list[str]:
    """Return the streams of a topic: those of its partitions, or the topic itself.

    topic    also the dead letters or retries of a group, which are in a stream for each partition
    """
    derived = derived_from(topic)
    if derived is None:
        by = declared(client, topic)
        return [partition_topic(topic, n) for n in range(by.count)] if by else [topic]
    of, kind, group = derived
    return [f"{stream}:{kind}:{group}" for stream in streams_of(client, of)]


def by_topic(client: redis.Redis, streams: Iterable[str]) -> dict[str, list[str]]:
    """Return streams by their topic: those of partitions, and their dead letters and retries, under the name without a partition."""
    known: dict[str, bool] = {}
    store: Any = client

    def topic_of(stream: str) -> str:
        if derived := derived_from(stream):
            of, kind, group = derived
            return f"{topic_of(of)}:{kind}:{group}"
        partition = partition_of(stream)
        if partition is None:
            return stream
        topic, _ = partition
        if topic not in known:  # another program's stream may have such a name
            known[topic] = bool(store.exists(partitions_key(topic)))
        return topic if known[topic] else stream

    found: dict[str, list[str]] = {}
    for stream in streams:
        found.setdefault(topic_of(stream), []).append(stream)
    return found


def level_of(client: redis.Redis, topic: str) -> TopicLevel | None:
    """Return the level of a topic, or None if it does not exist."""
    levels = Levels(client)
    found = [level for stream in streams_of(client, topic) if (level := levels.of(stream))]
    return next(iter(fold(client, found)), None)


def fold(client: redis.Redis, levels: Sequence[TopicLevel]) -> list[TopicLevel]:
    """Return the levels of topics, each with those of its partitions; `levels` are those of streams."""
    of = {level.topic: level for level in levels}
    return [
        _folded(client, topic, [of[stream] for stream in streams]) for topic, streams in by_topic(client, of).items()
    ]


def _folded(client: Any, topic: str, levels: list[TopicLevel]) -> TopicLevel:
    if [level.topic for level in levels] == [topic]:
        return levels[0]
    keep = client.hget(topic_keys(topic).state, "keep")
    groups: dict[str, list[GroupLevel]] = {}
    for group in (group for level in levels for group in level.groups):
        groups.setdefault(group.name, []).append(group)
    return TopicLevel(
        topic=topic,
        length=sum(level.length for level in levels),
        first_id=min(_ids(level.first_id for level in levels), key=id_numbers, default=None),
        last_id=max(_ids(level.last_id for level in levels), key=id_numbers, default=None),
        groups=tuple(_group(of_partitions) for of_partitions in groups.values()),
        bytes=_sum(level.bytes for level in levels),
        rate=_known(level.rate for level in levels),
        age=min((level.age for level in levels if level.age is not None), default=None),
        pushed=_known(level.pushed for level in levels),
        pushed_bytes=_known(level.pushed_bytes for level in levels),
        keep=Keep.unpacked(keep.decode()) if keep else None,
        unreadable="; ".join(level.unreadable for level in levels if level.unreadable),
        partitions=tuple(sorted(levels, key=lambda level: (partition_of(level.topic) or ("", 0))[1])),
    )


def _group(groups: list[GroupLevel]) -> GroupLevel:
    """Return the level of a group on all partitions."""
    return replace(
        groups[0],
        consumers=max(group.consumers for group in groups),
        pending=sum(group.pending for group in groups),
        lag=_sum(group.lag for group in groups),
        dead=sum(group.dead for group in groups),
        behind=max(group.behind for group in groups),
        oldest_pending=max(
            (group.oldest_pending for group in groups if group.oldest_pending is not None), default=None
        ),
        dead_dropped=sum(group.dead_dropped for group in groups),
        spilled=sum(group.spilled for group in groups),
        done=sum(group.done for group in groups),
        failed=sum(group.failed for group in groups),
        retrying=sum(group.retrying for group in groups),
        is_forgotten=all(group.is_forgotten for group in groups),
        is_ahead=any(group.is_ahead for group in groups),
    )


def _ids(ids: Iterable[str | None]) -> Iterator[str]:
    return (id_ for id_ in ids if id_ is not None)


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Return the sum; None if one number is unknown."""
    found = list(numbers)
    return None if None in found else sum(number for number in found if number is not None)


def _known(numbers: Iterable[Any]) -> Any:
    """Return the sum of the known numbers; None if none is."""
    found = [number for number in numbers if number is not None]
    return sum(found) if found else None
