"""Members: the runs that share the partitions of a group's topics, and how many partitions each is to own."""

from typing import NamedTuple

import redis

from tasks.group.membership import TOMBSTONE
from tasks.reservoir.keys import lease_key, members_key, state_key, state_scope
from tasks.reservoir.lua import load

__all__ = ["Members", "Share", "quota"]

_MEET = load(__file__, "meet")


class Share(NamedTuple):
    """What one member is to own.

    quota    how many partitions
    owners   the living owner of each owned partition: the name of its consumer
    """

    quota: int
    owners: dict[int, str]


def quota(partitions: int, members: int, rank: int) -> int:
    """Return how many partitions the member of a rank is to own: shares differ by one at most, and add up to all.

    >>> [quota(8, 3, rank) for rank in range(3)]
    [3, 3, 2]
    """
    return partitions // members + (rank < partitions % members)


class Members:
    """One member of the runs that share partitions. Only a share is agreed here; `Ownership` decides who reads.

    name    unique to this run
    ttl     seconds without `meet` after which a member does not count any more
    """

    def __init__(self, client: redis.Redis, group: str, partitions: int, *, name: str, ttl: float) -> None:
        self._client = client
        self._group = group
        self._partitions = partitions
        self._name = name
        self._ttl_ms = int(ttl * 1000)
        self._meet = _MEET.on(client)

    def meet(self) -> Share:
        """Count as a member for another TTL; return this member's share, and who owns what.

        raises    redis.RedisError
        """
        members = members_key(self._group)
        rank, count = self._meet(members=members, name=self._name, ttl_ms=self._ttl_ms)
        return Share(quota(self._partitions, count, rank), self._owners())

    def leave(self) -> None:
        """Count as a member no longer, so that others take its partitions at once."""
        self._client.zrem(members_key(self._group), self._name)

    def _owners(self) -> dict[int, str]:
        with self._client.pipeline(transaction=False) as pipe:
            for n in range(self._partitions):
                pipe.hget(state_key(state_scope(self._group, n)), "owner")
            named = {n: owner.decode() for n, owner in enumerate(pipe.execute()) if owner}
            for owner in named.values():
                pipe.get(lease_key(self._group, owner))
            leases = pipe.execute() if named else []
        lives = [lease is not None and lease != TOMBSTONE.encode() for lease in leases]
        return {n: owner for (n, owner), is_alive in zip(named.items(), lives, strict=True) if is_alive}
