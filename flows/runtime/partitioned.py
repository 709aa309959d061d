"""Looks up how an outlet's topics are partitioned."""

from tasks.errors import SettingsError
from tasks.reservoir.connection import connect
from tasks.reservoir.partitions import Partitioning, declared
from tasks.settings import redis_url

__all__ = ["partitions_of"]


def partitions_of(topics: list[str]) -> int | None:
    """Return into how many partitions all of these topics are split; None if none of them is.

    raises    SettingsError: they are not partitioned alike; UnavailableError; redis.RedisError
    """
    with connect(redis_url()) as client:
        found = {topic: declared(client, topic) for topic in topics}
    if len(set(found.values())) > 1:
        shown = ", ".join(f"{topic!r} with {_shown(each)}" for topic, each in found.items())
        msg = (
            f"topics: expected topics that are partitioned alike, so that one run reads all entries of a key, got {shown}; "
            "partition them by the same key and number, or read them with an outlet each"
        )
        raise SettingsError(msg)
    first = found[topics[0]]
    return first.count if first else None


def _shown(partitioning: Partitioning | None) -> str:
    return f"{partitioning.count} partitions by {partitioning.key!r}" if partitioning else "none"
