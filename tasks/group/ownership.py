"""Ownership: one living consumer of a group at a time reads entries, and stores the state that they leave."""

import time
from typing import Any

import redis

from tasks.base.logs import get_logger
from tasks.group.lease_scripts import OWN
from tasks.group.membership import TOMBSTONE, TOMBSTONE_TTL_MS, Membership
from tasks.reservoir.keys import lease_key, state_key

__all__ = ["Ownership"]

logger = get_logger(__name__)


class Ownership:
    """What one consumer of a group owns: all of the group's topics, or one partition of each.

    The owner stands in the hash of the kept state, also where a pipeline keeps none. It owns while its lease lives; a successor
    leaves a tombstone there, so that an owner that was suspended can write nothing any more.

    scope     names the hash; see `tasks.reservoir.keys.state_scope`
    cure      ends the line that is logged if another consumer owns it for long
    """

    def __init__(self, client: redis.Redis, membership: Membership, scope: str, *, cure: str) -> None:
        self._client: Any = client
        self._membership = membership
        self._scope = scope
        self._cure = cure
        self._own = OWN.on(client)
        self._waiting_since: float | None = None

    def acquire(self, topics: list[str]) -> bool:
        """Become the owner if no living consumer is; return whether this one is.

        raises    LeaseLostError: other consumers took this one for dead
        """
        membership, state = self._membership, state_key(self._scope)
        while True:
            owner = self._client.hget(state, "owner") or b""
            holder = owner.decode() or membership.name
            answer = self._own(
                lease=membership.fence.lease,
                state=state,
                owner_lease=lease_key(membership.group, holder),
                topics=topics,
                token=membership.fence.token,
                name=membership.name,
                owner=owner,
                tombstone=TOMBSTONE,
                tombstone_ttl_ms=TOMBSTONE_TTL_MS,
                group=membership.group,
            )
            membership.still_held(answer)
            if answer == 1:
                return True
            if answer == 0:
                self._mention(holder)
                return False

    def _mention(self, holder: str) -> None:
        """Log once that this consumer waits, unless the holder may be dead, with a lease that has not expired yet."""
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        elif now - self._waiting_since > self._membership.lease_ttl:
            self._waiting_since = float("inf")
            logger.warning(
                "group %r: waiting for consumer %r to end, which owns %r; %s",
                self._membership.group, holder, self._scope, self._cure,
            )  # fmt: skip
