"""Names the key that keeps a topic from being looked at, so that one odd key blinds nothing else."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from tasks.checks import is_group
from tasks.errors import SluiceError, UnreadableTopicError
from tasks.reservoir.connection import in_words, is_outage
from tasks.reservoir.groups import group_name
from tasks.reservoir.keys import TOPIC_KEY_TYPES, dead_topic, retry_topic, topic_keys
from tasks.reservoir.refusals import lacks_right

__all__ = ["named"]

_PACKED_KEEP = re.compile(rb"\d+ \d+ \d+ [01]")
_LINE = 200  # characters of what a server answered


@contextmanager
def named(client: redis.Redis, topic: str) -> Iterator[None]:
    """Raise UnreadableTopicError, which names the key and the cure, where a look at `topic` meets what Sluice did not write.

    Outages, lost connections and errors of Sluice's own pass as they are.
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
            f"expected the field 'keep' of {topic_keys(topic).state!r} to be what an inlet's run declares, got something else; "
            "HDEL it, and the next run writes it anew"
        )
    return (
        f"one of {', '.join(topic_keys(topic)[1:])} does not hold what Sluice writes there ({reason}); "
        "delete it, and what it counted begins anew"
    )


def _keys_of(client: Any, topic: str) -> Iterator[tuple[str, str]]:
    """Yield the keys that a look at a topic reads, with their types: its own, and those of its groups' dead letters and retries."""
    yield from zip(topic_keys(topic), TOPIC_KEY_TYPES, strict=True)
    # The topic is a stream, or the caller has stopped at it; and one that is gone has no groups.
    groups = client.xinfo_groups(topic) if client.exists(topic) else []
    for group in filter(is_group, (group_name(each["name"]) for each in groups)):
        yield dead_topic(topic, group), "stream"
        yield retry_topic(topic, group), "stream"
