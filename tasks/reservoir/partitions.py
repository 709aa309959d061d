"""Partitioned topics: the names of their streams, and how a topic is partitioned.

Partition n of a topic is the stream `<topic>:{<n>}`. All entries of a key are in one partition, in the order in which they were
pushed; there is no order between partitions. How a topic is partitioned is stored without a TTL, because another number of
partitions, or another key, would put entries of one key into two partitions.
"""

from dataclasses import dataclass
from typing import Any

import redis

from tasks.checks import check_choice, check_field
from tasks.errors import SettingsError
from tasks.reservoir.keys import partitions_key, topic_keys
from tasks.reservoir.lua import load
from tasks.reservoir.partition_hash import HASH, partition_for
from tasks.reservoir.topic_names import check_topic, partition_of, partition_topic
from tasks.reservoir.unreadable import named

__all__ = [
    "HASH",
    "MAX_PARTITIONS",
    "Partitioning",
    "declare",
    "declared",
    "expect_same",
    "partition_for",
    "partition_of",
    "partition_topic",
]

MAX_PARTITIONS = 256

_DECLARE = load(__file__, "declare_partitions")


@dataclass(frozen=True, slots=True)
class Partitioning:
    """How a topic is partitioned.

    count     number of partitions
    key       the field, or the column of frames, by which entries are distributed
    hash      name of the hash; 'blake2b'
    raises    SettingsError: not a number from 1 to 256, not a field's name, or an unknown hash
    """

    count: int
    key: str
    hash: str = HASH

    def __post_init__(self) -> None:
        """Check all values."""
        if not isinstance(self.count, int) or isinstance(self.count, bool) or not 1 <= self.count <= MAX_PARTITIONS:
            msg = f"partitions: expected a whole number from 1 to {MAX_PARTITIONS}, got {self.count!r}"
            raise SettingsError(msg)
        check_field(self.key, name="key")
        check_choice(self.hash, [HASH], name="hash")

    @classmethod
    def of(cls, partitions: int | None, key: str | None, *, prefix: str = "") -> "Partitioning | None":
        """Return the partitioning of two options; None if neither is given.

        prefix    of the names of the options in errors
        raises    SettingsError: only one of them is given, or an invalid value
        """
        if partitions is None and key is None:
            return None
        if partitions is None or key is None:
            msg = f"{prefix}partitions, {prefix}key: expected both or neither, got {partitions!r} and {key!r}"
            raise SettingsError(msg)
        return cls(partitions, key)

    def __str__(self) -> str:
        return f"{self.count} by key {self.key!r} ({self.hash})"


def declare(client: redis.Redis, topic: str, partitioning: Partitioning) -> None:
    """Store how `topic` is partitioned, without a TTL; do nothing if it is stored already.

    raises    SettingsError: another partitioning is stored, or the topic has entries without partitions
    """
    check_topic(topic)
    with named(client, topic):
        answer = _DECLARE.on(client)(
            partitions=partitions_key(topic),
            topic=topic,
            tally=topic_keys(topic).tally,
            count=partitioning.count,
            key=partitioning.key,
            hash=partitioning.hash,
        )
    expect_same(topic, partitioning, answer)


def expect_same(topic: str, partitioning: Partitioning, answer: Any) -> None:
    """Raise a SettingsError if a script has answered that `topic` is not partitioned as was declared.

    answer    None; [b'plain'], if the topic has entries without partitions; or the stored count, key and hash
    """
    if answer is None:
        return
    if answer == [b"plain"]:
        msg = (
            f"topic {topic!r}: expected a new topic to be partitioned, got one with entries that are in no partition; nothing was pushed; "
            "push to a topic of another name, and move the entries there with an outlet with `into`, `into_partitions` and `into_key`"
        )
        raise SettingsError(msg)
    stored = Partitioning(int(answer[0]), answer[1].decode(), answer[2].decode())
    msg = (
        f"topic {topic!r}: expected the partitions that it was created with, {stored}, got {partitioning}; nothing was pushed; "
        "declare the same everywhere, or push to a topic of another name and move the entries there with an outlet with `into`, "
        "`into_partitions` and `into_key`"
    )
    raise SettingsError(msg)


def declared(client: redis.Redis, topic: str) -> Partitioning | None:
    """Return how `topic` is partitioned; None if it is a plain topic, or none."""
    known: Any = client
    with named(client, topic):
        count, key, hashed = known.hmget(partitions_key(topic), "count", "key", "hash")
    return None if count is None else Partitioning(int(count), key.decode(), hashed.decode())
