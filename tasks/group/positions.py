"""Positions of a consumer group on its topics: where it starts, and where it continues after it was deleted."""

from typing import Any

import redis

from tasks.base.ids import id_numbers, id_time
from tasks.base.logs import get_logger
from tasks.checks import group_start
from tasks.group.membership import Membership
from tasks.reservoir.groups import create_group, groups_of, position_ahead
from tasks.reservoir.keys import retried_topic

__all__ = ["Positions"]

logger = get_logger(__name__)

_ZERO = "0-0"


class Positions:
    """The positions of one consumer's group on the topics that it reads.

    start_from  where a new group begins; see `group_start`
    """

    def __init__(self, client: redis.Redis, membership: Membership, *, start_from: str) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._group = membership.group
        self._membership = membership
        self._start_from = start_from
        self._start = group_start(start_from)
        self.last_read: dict[str, str] = {}
        """The id of the last entry that was read of each topic; before the first read, the group's position."""
        self._ahead: dict[str, str] = {}

    def join(self, topic: str) -> None:
        """Create the group on a topic unless it exists, and note its position."""
        if not self._create(topic, self._start) and self._start != _ZERO:
            logger.info(
                "group %r on topic %r exists and continues at its position; start_from=%r applies to new groups only",
                self._group, topic, self._start_from,
            )  # fmt: skip
        if group := groups_of(self._client, topic).get(self._group):
            # The position to restore if the group is deleted before the first read.
            self.last_read[topic] = group["last-delivered-id"].decode()

    def begin(self, topic: str) -> None:
        """Create the group at the beginning of a topic unless it exists."""
        self._create(topic, _ZERO)
        self.last_read[topic] = _ZERO

    def read_up_to(self, topic: str, id_: str) -> None:
        """Note that entries were read up to this id."""
        if id_numbers(id_) > id_numbers(self.last_read.get(topic, _ZERO)):
            self.last_read[topic] = id_

    def restore(self, topic: str) -> bool:
        """Recreate the group at its last position if it was deleted; return whether it was."""
        last = self._goes_on_after(topic)
        if not self._create(topic, last):
            return False
        self.last_read[topic] = last
        logger.warning(
            "group %r on topic %r did not exist (deleted, or Redis was flushed); recreated, it continues after entry %s",
            self._group, topic, last,
        )  # fmt: skip
        return True

    def mention_if_ahead(self, topic: str) -> None:
        """Log once that the group's position lies in the future, where another client or a typo set it."""
        position = position_ahead(self._client, topic, self._group)
        if position and position != self._ahead.get(topic):
            logger.warning(
                "group %r is ahead of topic %r: it continues after %s (%s) and skips entries pushed until then; set it back with "
                "the flow `rewind`",
                self._group, topic, position, f"{id_time(position):%Y-%m-%dT%H:%M:%S} UTC",
            )  # fmt: skip
        self._ahead[topic] = position

    def _create(self, topic: str, start: str) -> bool:
        is_new = create_group(self._client, topic, self._group, start)
        self._membership.register(topic)
        return is_new

    def _goes_on_after(self, topic: str) -> str:
        """Return the last id that was read; the beginning for a retry topic, and for a topic that was deleted and recreated."""
        if retried_topic(topic, self._group) or not self._client.exists(topic):
            return _ZERO
        last = self._client.xinfo_stream(topic)["last-generated-id"].decode()
        read = self.last_read.get(topic, _ZERO)
        return read if id_numbers(last) >= id_numbers(read) else _ZERO
