"""How much the topics hold and how far their groups have come: the lag is counted, as Redis' own is often not known.

Tried on Redis 6.2 and 7.0: 6.2 has no lag. 7.0 says nil from the first deletion or SETID on until the group has read
everything, and once more entries are deleted than were unread, a number that is wrong.
"""

from dataclasses import dataclass
from typing import Any

import redis

from tasks.base.ids import id_numbers
from tasks.checks import is_group
from tasks.errors import UnreadableTopicError
from tasks.reservoir.groups import group_name
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import dead_topic, topic_keys
from tasks.reservoir.retention import GROUPS, IDS
from tasks.reservoir.unreadable import named

__all__ = ["GroupLevel", "Levels", "TopicLevel"]

# KEYS: those of `topic_keys`. Returns nil if there is no such topic; else its length, first and last id, the time in ms, bytes by
# the index, entries and ms since a sample about a minute ago, what to keep, and for each group: its name, consumers,
# pending entries, lag (-1: unknown), oldest pending id, dropped dead letters, spilled, when it was seen, whether it is
# ahead of its topic.
#
# Lag: what is in the topic behind a sample of the index is known, and what is between the sample and the last entry
# that was delivered is counted, entry by entry, if that is little. A sample is no use once entries that it counts were
# trimmed from the start, or swept from before the id `swept`; or if another client deleted anything.
_LEVEL = (
    GROUPS
    + IDS
    + """
local topic, state, index, groups, spilled, tally = unpack(KEYS)
if redis.call('EXISTS', topic) == 0 then return false end
local about = {}
local reply = redis.call('XINFO', 'STREAM', topic)
for i = 1, #reply, 2 do about[reply[i]] = reply[i + 1] end
local length = about.length
local first = length > 0 and about['first-entry'][1] or ''
local last = length > 0 and about['last-entry'][1] or ''
local stored = redis.call('HMGET', state, 'gone', 'swept', 'keep')
local appended, since, total = string.match(redis.call('GET', tally) or '', '^%d+ (%d+) %d+ %d+ (%d+) %d+ (%d+)$')
local all = length + (stored[1] or 0)
local known = appended and all >= total + since
local swept = stored[2] or '0-0'

-- How many entries there are from `low` on, or after it if it is '(<id>', up to `high`; nil if that is too much to read.
local function counted(low, high)
  local n, size, count = 0, 0, 1
  while true do
    local page = redis.call('XRANGE', topic, low, high, 'COUNT', count)
    n = n + #page
    if #page < count then return n end
    for _, entry in ipairs(page) do
      for _, value in ipairs(entry[2]) do size = size + #value end
    end
    if n > 2000 or size > 4000000 then return nil end
    low = '(' .. page[#page][1]
    count = math.min(2 * count, 64)
  end
end

local function behind(id)
  if length == 0 or not before(id, last) then return 0 end
  if before(id, first) then return length end
  if before(id, swept) then
    local between, rest = counted('(' .. id, swept), behind(swept)
    return between and rest and between + rest
  end
  local rank = known and last_sample(index, function(sample) return not before(id, sample) end) or -1
  if rank >= 0 then
    local sample = redis.call('ZRANGE', index, rank, rank, 'WITHSCORES')
    local at = sample_of(sample[1])
    if not before(at, first) then
      local between = counted('(' .. at, id)
      if between then return all - sample[2] - between end
    end
  end
  local done = counted(first, id)
  if done then return length - done end
  local following = known and redis.call('ZRANGE', index, rank + 1, rank + 1, 'WITHSCORES') or {}
  if following[1] then
    local between = counted('(' .. id, (sample_of(following[1])))
    if between then return all - following[2] + between end
  end
  return counted('(' .. id, '+')
end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local bytes, came, during = -1, -1, -1
if known and length > 0 then
  local rank = math.max(0, last_sample(index, function(id) return before(id, first) end))
  local oldest = redis.call('ZRANGE', index, rank, rank)[1]
  if oldest then
    local id, upto = sample_of(oldest)
    bytes = appended - upto
    local minute = string.format('%.0f-0', now - 60000)
    rank = math.max(0, last_sample(index, function(sample) return before(sample, minute) end))
    local sample = redis.call('ZRANGE', index, rank, rank, 'WITHSCORES')
    came, during = all - sample[2], now - string.match(sample[1], '^(%d+)')
  end
end

-- Whether entries to come are passed over: they get ids from now on, or above the last one.
local function is_ahead(id)
  return before(about['last-generated-id'], id) and before(string.format('%.0f-18446744073709551615', now), id) and 1 or 0
end

local answer = {length, first, last, string.format('%.0f', now), string.format('%.0f', bytes), came, string.format('%.0f', during), stored[3] or ''}
for _, group in ipairs(groups_of(topic)) do
  local oldest = group.pending > 0 and redis.call('XPENDING', topic, group.name, '-', '+', 1)[1][1] or ''
  answer[#answer + 1] = {
    group.name, group.consumers, group.pending, behind(group['last-delivered-id']) or -1, oldest,
    redis.call('HGET', spilled, 'dead:' .. group.name) or '0', redis.call('HGET', spilled, group.name) or '0',
    redis.call('HGET', groups, group.name) or '', is_ahead(group['last-delivered-id']),
  }
end
return answer
"""
)


@dataclass(frozen=True, slots=True)
class GroupLevel:
    """How far one consumer group has come on one topic.

    lag              entries the group has not read yet; None where that cannot be known at a bounded price
    oldest_pending   seconds since the oldest entry that is delivered and not acknowledged was pushed
    dead             entries in the group's dead-letter topic; `dead_dropped` went from there, which has a cap
    spilled          entries that were dropped before the group had read them
    is_ahead         its position lies in the future: what is pushed until then is passed over, and in no count
    is_forgotten     nobody has read with it for so long that it holds nothing back any more
    """

    name: str
    consumers: int
    pending: int
    lag: int | None
    dead: int
    oldest_pending: float | None = None
    dead_dropped: int = 0
    spilled: int = 0
    is_forgotten: bool = False
    is_ahead: bool = False

    @property
    def remark(self) -> str:
        """What tables put behind the group's name, '' for nothing."""
        return " (ahead of its topic)" * self.is_ahead + " (forgotten)" * self.is_forgotten


@dataclass(frozen=True, slots=True)
class TopicLevel:
    """What one topic holds: `length` entries from `first_id` to `last_id`, and who reads them.

    bytes    in Redis' memory, about; None where Redis does not say
    rate     entries a second over the last minute or so; None where appends were not counted
    keep     what is kept of it; None where nobody has said so
    unreadable   why it cannot be read, '' where it can: then nothing else is known of it
    """

    topic: str
    length: int
    first_id: str | None
    last_id: str | None
    groups: tuple[GroupLevel, ...]
    bytes: int | None = None
    rate: float | None = None
    keep: Keep | None = None
    unreadable: str = ""


class Levels:
    """Reads levels. No entry leaves Redis for it."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._level = client.register_script(_LEVEL)

    def of(self, topic: str) -> TopicLevel | None:
        """Return what one topic holds and how far each of its groups has come; None if there is no such topic.

        One that cannot be read is returned with the reason: it must not hide the others.
        """
        try:
            with named(self._client, topic):
                return self._read(topic)
        except UnreadableTopicError as error:
            return TopicLevel(topic, length=0, first_id=None, last_id=None, groups=(), unreadable=str(error))

    def _read(self, topic: str) -> TopicLevel | None:
        answer = self._level(keys=topic_keys(topic))
        if answer is None:
            return None
        length, first, last, now, counted, came, during, keep, *groups = answer
        dead = self._dead(topic, [group_name(group[0]) for group in groups])
        milliseconds = int(during)
        return TopicLevel(
            topic=topic,
            length=length,
            first_id=first.decode() or None,
            last_id=last.decode() or None,
            groups=tuple(_group(*each, int(now)) for each in zip(groups, dead, strict=True)),
            bytes=self._bytes(topic, int(counted)),
            rate=came * 1000 / milliseconds if milliseconds > 0 else None,
            keep=Keep.unpacked(keep.decode()) if keep else None,
        )

    def _dead(self, topic: str, groups: list[str]) -> list[int]:
        """Return how many dead letters each group has; a group whose name none of ours can have has none."""
        with self._client.pipeline(transaction=False) as pipe:
            for group in filter(is_group, groups):
                pipe.xlen(dead_topic(topic, group))
            found = iter(pipe.execute())
        return [next(found) if is_group(group) else 0 for group in groups]

    def _bytes(self, topic: str, counted: int) -> int | None:
        try:
            # All nodes, or the odd frame among small entries would not be seen.
            return self._client.memory_usage(topic, samples=0)
        except redis.ResponseError:  # fakeredis knows no memory; a server may forbid the command
            return counted if counted >= 0 else None


def _group(raw: list[Any], dead: int, now: int) -> GroupLevel:
    name, consumers, pending, lag, oldest, dropped, spilled, seen, ahead = raw
    return GroupLevel(
        name=group_name(name),
        consumers=consumers,
        pending=pending,
        lag=lag if lag >= 0 else None,
        dead=dead,
        oldest_pending=max(0.0, (now - id_numbers(oldest.decode())[0]) / 1000) if oldest else None,
        dead_dropped=int(dropped),
        spilled=int(spilled),
        is_forgotten=seen.startswith(b"-"),
        is_ahead=bool(ahead),
    )
