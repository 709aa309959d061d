"""What Redis tells of the consumer groups of a topic."""

from typing import Any

import redis

__all__ = ["groups_of"]


def groups_of(client: redis.Redis, topic: str) -> dict[str, dict[str, Any]]:
    """Return what XINFO GROUPS tells of each group, by its name; nothing of a topic that is not there.

    The bytes of a name that is no text, which no group of ours has, are escaped.
    """
    known: Any = client  # redis-py types replies for all protocols and decodings at once
    try:
        groups = known.xinfo_groups(topic)
    except redis.ResponseError as error:
        if "no such key" not in str(error):
            raise
        return {}
    return {group["name"].decode(errors="backslashreplace"): group for group in groups}
