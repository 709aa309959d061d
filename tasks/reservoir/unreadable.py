"""Unreadable topics: errors that name the key at fault, so that it hides only its own topic."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from tasks.checks import is_group
from tasks.errors import SluiceError, UnreadableTopicError
from tasks.reservoir.connection import in_words, is_outage
from tasks.reservoir.groups import group_name
from tasks.reservoir.keys import TOPIC_KEY_TYPES, dead_topic, partitions_key, retry_topic, topic_keys
from tasks.reservoir.refusals import lacks_right

__all__ = ["named"]

_PACKED_KEEP = re.compile(rb"\d+ \d+ \d+ [01]")
_LINE = 200  # characters of a server's answer


@contextmanager
def named(client: redis.Redis, topic: str) -> Iterator[None]:
    """Raise UnreadableTopicError with the key and the remedy if code inside meets foreign data at a key of `topic`.

    Outages, lost connections and Sluice's own errors pass unchanged.
    """
    try:
        yield
    except (redis.ResponseError, ValueError) as error:
        if isinstance(error, SluiceError) or is_outage(error):
            raise
        msg = f"topic {topic!r} cannot be read: {_why(client, topic, error)}"
        raise UnreadableTopicError(msg) from error


def _why(client: Any, topic: str, error: redis.ResponseError | ValueError) -> str:
    reason = in_words(error)[:_LINE] if isinstance(error, redis.RedisError) else f"a {type(error).__name__}"
    if isinstance(error, redis.ResponseError) and lacks_right(error):
        return f"{reason}; give this user the right (docs/redis.md)"
    try:
        for key, expected in _keys_of(client, topic):
            if (found := client.type(key).decode()) not in (expected, "none"):
                return f"expected key {key!r} to be a {expected}, got a {found}; rename or delete it"
        keep = client.hget(topic_keys(topic).state, "keep")
    except redis.ResponseError as refused:  # a server may forbid TYPE
        return in_words(refused)[:_LINE]
    if keep is not None and not _PACKED_KEEP.fullmatch(keep):
        return (
            f"expected limits that an inlet declared in the field 'keep' of {topic_keys(topic).state!r}, got something else; "
            "HDEL the field, and the next run writes it again"
        )
    return (
        f"one of {', '.join(topic_keys(topic)[1:])} has content that Sluice does not write ({reason}); "
        "delete it, and its counts start again"
    )


def _keys_of(client: Any, topic: str) -> Iterator[tuple[str, str]]:
    """Yield the keys that Sluice reads for a topic, with their types: its own, and its groups' dead letters and retries."""
    yield from zip(topic_keys(topic), TOPIC_KEY_TYPES, strict=True)
    yield partitions_key(topic), "hash"
    # Here the topic is a stream or missing: the caller stops at a topic of another type. A missing one has no groups.
    groups = client.xinfo_groups(topic) if client.exists(topic) else []
    for group in filter(is_group, (group_name(each["name"]) for each in groups)):
        yield dead_topic(topic, group), "stream"
        yield retry_topic(topic, group), "stream"
