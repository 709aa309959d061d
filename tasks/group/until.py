"""Where a bounded replay ends, reading no further than that, and how far it has come."""

from collections.abc import Mapping
from typing import Any

import redis

from tasks.base.ids import id_numbers
from tasks.checks import group_end
from tasks.group.read_ahead import Read
from tasks.reservoir.groups import groups_of
from tasks.reservoir.retention import GROUPS, IDS

__all__ = ["ReplayProgress", "Until"]

# What the server has read for a group, it counts as delivered: what lies behind the bound is given back in the same
# script, with the group's position, so that no other consumer misses it, and nothing counts it as delivered.
# KEYS: the topic. ARGV: group, consumer, how many, the bound.
# Returns the server's time before, in microseconds, and the entries up to the bound, as XRANGE does.
_READ = (
    GROUPS
    + IDS
    + """
local clock, group = redis.call('TIME')
local micros = string.format('%.0f', clock[1] * 1000000 + clock[2])
for _, each in ipairs(groups_of(KEYS[1])) do
  if each.name == ARGV[1] then group = each end
end
local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
if not reply then return {micros, {}} end
local entries, found = reply[1][2], {}
for _, entry in ipairs(entries) do
  if before(ARGV[4], entry[1]) then
    redis.call('XACK', KEYS[1], ARGV[1], entry[1])
  else
    found[#found + 1] = entry
  end
end
if #found < #entries then
  local position = #found > 0 and found[#found][1] or group['last-delivered-id']
  local count = tonumber(group['entries-read'])  -- Redis 6.2 has none; later ones may not know it
  if count then
    redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], position, 'ENTRIESREAD', count + #found)
  else
    redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], position)
  end
end
return {micros, found}
"""
)


class Until:
    """The last entry that a group's bounded reader may have, topic by topic.

    until    'now', an ISO time or an entry id; see `group_end`
    """

    def __init__(self, client: redis.Redis, group: str, until: str) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._group = group
        self._until = group_end(until)
        self.ends: dict[str, str] = {}
        """The id of the last entry, of each topic where it is known yet."""
        self._read = client.register_script(_READ)

    def end(self, topic: str) -> str:
        """Return the id of the last entry of `topic`; what 'now' is stays what it was at the first call."""
        if topic not in self.ends:
            now = self._until == "$"
            self.ends[topic] = self._client.xinfo_stream(topic)["last-generated-id"].decode() if now else self._until
        return self.ends[topic]

    def read(self, topic: str, consumer: str, count: int) -> Read:
        """Read a topic without blocking, and no further than the bound."""
        micros, entries = self._read(keys=[topic], args=[self._group, consumer, count, self.end(topic)])
        return Read([topic], count, [(topic.encode(), entries)] if entries else [], int(micros))

    def is_reached(self, topic: str) -> bool:
        """Return whether all there is up to the bound was delivered, and no more can come. Ask when a read brought nothing."""
        end = self.end(topic)
        position = _position(self._client, topic, self._group)
        if id_numbers(position) >= id_numbers(end):
            return True
        if self._client.xrange(topic, f"({position}", end, count=1):
            return False
        newest = self._client.xinfo_stream(topic)["last-generated-id"].decode()
        seconds, micros = self._client.time()
        return id_numbers(newest) >= id_numbers(end) or seconds * 1000 + micros // 1000 > id_numbers(end)[0]


class ReplayProgress:
    """How much of a bounded replay lies behind it, measured by the time in the entries' ids."""

    def __init__(self, client: redis.Redis, group: str) -> None:
        self._client: Any = client
        self._group = group
        self._starts: dict[str, int] = {}

    def share(self, ends: Mapping[str, str]) -> float:
        """Return what was delivered of the way from where the group began to the ends, from 0 to 1."""
        shares = [self._share(topic, id_numbers(end)[0]) for topic, end in ends.items()]
        return sum(shares) / len(shares) if shares else 0.0

    def _share(self, topic: str, end: int) -> float:
        position = _position(self._client, topic, self._group)
        if topic not in self._starts:
            following = self._client.xrange(topic, f"({position}", count=1)
            self._starts[topic] = id_numbers(following[0][0].decode())[0] if following else end
        start = self._starts[topic]
        if end <= start:
            return 1.0
        return min(1.0, max(0.0, (id_numbers(position)[0] - start) / (end - start)))


def _position(client: redis.Redis, topic: str, group: str) -> str:
    """Return the id of the last entry that a group was delivered."""
    found = groups_of(client, topic).get(group)
    return found["last-delivered-id"].decode() if found else "0-0"
