"""What of a topic stays: in Redis, in the script that appends, and for topics that get no appends any more.

Beside a topic's stream, `topic_keys` names, all with a TTL:

tally    what was appended: seven numbers that the script of `Reservoir.append` names
state    a hash: what is to be kept, where retention stands, how many entries it has removed
index    a sorted set of samples: '<entry id> <bytes appended up to it>' by how many entries that was
groups   a hash: when each group was last seen (ms); below zero once it is forgotten
spilled  a hash: how many entries were dropped that a group had not read, by group
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import OutOfMemoryError

from tasks.checks import check_topic
from tasks.errors import SettingsError
from tasks.reservoir.groups import group_name, groups_of
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import topic_keys
from tasks.reservoir.refusals import explained

__all__ = ["GROUPS", "IDS", "RETENTION", "TTL_MS", "Retention", "Trimmed", "mark_seen"]

# Longer than any schedule's pause; renewed by each append and by the `trim` flow.
TTL_MS = 30 * 86_400_000
# An inlet's run declares at its start, and the next one relieves it after a minute.
LATELY_MS = 180_000

# groups_of(topic) returns what XINFO GROUPS tells of each group, by the names it tells it under.
GROUPS = """
local function groups_of(topic)
  local found = {}
  for _, reply in ipairs(redis.call('XINFO', 'GROUPS', topic)) do
    local group = {}
    for i = 1, #reply, 2 do group[reply[i]] = reply[i + 1] end
    found[#found + 1] = group
  end
  return found
end
"""

# before(a, b) and after(id) of entry ids: two decimal numbers up to 2^64, of which Lua counts to 2^53.
IDS = """
local function less(a, b)
  return #a < #b or (#a == #b and a < b)
end

local function before(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)%-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)%-(%d+)$')
  if a_ms ~= b_ms then return less(a_ms, b_ms) end
  return less(a_seq, b_seq)
end

local function one_more(number)
  local head, nines = string.match('0' .. number, '^(%d-)(9*)$')
  return (string.gsub(string.sub(head, 1, -2) .. string.sub(head, -1) + 1 .. string.rep('0', #nines), '^0', ''))
end

local function after(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  if seq == '18446744073709551615' then return one_more(ms) .. '-0' end
  return ms .. '-' .. one_more(seq)
end

-- A sample's id and bytes; and the rank of the last sample of the index for which `holds` is true, -1 if there is none.
local function sample_of(member)
  return string.match(member, '^(%S+) (%d+)$')
end

local function last_sample(index, holds)
  local low, high = -1, redis.call('ZCARD', index) - 1
  while low < high do
    local middle = math.floor((low + high + 1) / 2)
    if holds(sample_of(redis.call('ZRANGE', index, middle, middle)[1])) then low = middle else high = middle - 1 end
  end
  return low
end
"""

# retain(keys, keep, appended) removes what is beyond `keep`, a bounded part of it at once, but more than was just
# `appended`; returns how many that was, how many of those some live group had not
# read, and 'full' (appends have to wait), 'more' (call again) or ''.
#
# Finished is what every live group has read and acknowledged. First the finished entries at the start of the topic
# go, whole nodes at a time, without looking at any entry. Where that is not enough, an older entry is still pending,
# or a live group lags: then the oldest entries are looked at one by one, and what is pending nowhere goes. The
# cursor remembers how far that has come, and how many pending entries it has passed.
RETENTION = (
    GROUPS
    + """
local function retain(keys, keep, appended)
"""
    + IDS
    + """
local function unfinished(keys, now)
  local live, floor, pending = {}, '18446744073709551615-18446744073709551615', 0
  for _, group in ipairs(groups_of(keys.topic)) do
    local seen = redis.call('HGET', keys.groups, group.name)
    if not seen then
      redis.call('HSET', keys.groups, group.name, now)
      redis.call('PEXPIRE', keys.groups, keys.ttl)
    end
    if not seen or string.sub(seen, 1, 1) ~= '-' then
      group.last = group['last-delivered-id']
      live[#live + 1] = group
      local oldest = after(group.last)
      if group.pending > 0 then
        pending = pending + group.pending
        local first = redis.call('XPENDING', keys.topic, group.name, '-', '+', 1)[1][1]
        if before(first, oldest) then oldest = first end
      end
      if before(oldest, floor) then floor = oldest end
    end
  end
  return live, floor, pending
end

local function pending_in(keys, live, page)
  local found, upto = {}, page[#page][1]
  for _, group in ipairs(live) do
    if group.pending > 0 then
      local some = redis.call('XPENDING', keys.topic, group.name, page[1][1], upto, 256)
      for _, one in ipairs(some) do found[one[1]] = true end
      if #some == 256 then upto = some[256][1] end
    end
  end
  return found, upto
end

-- Each of these is one entry less between the sample before it and the end. They come in order, many to a sample.
local stretch
local function close_stretch(keys)
  if stretch and stretch.n > 0 then redis.call('ZINCRBY', keys.index, stretch.n, stretch.sample) end
  stretch = nil
end

local function forget_in_index(keys, id)
  if not stretch or (stretch.upto and before(stretch.upto, id)) then
    close_stretch(keys)
    local rank = last_sample(keys.index, function(sample) return before(sample, id) end)
    local near = redis.call('ZRANGE', keys.index, math.max(rank, 0), rank + 1)
    stretch = {sample = rank >= 0 and near[1], upto = near[rank >= 0 and 2 or 1], n = 0}
    stretch.upto = stretch.upto and sample_of(stretch.upto)
  end
  if stretch.sample and id ~= stretch.upto then stretch.n = stretch.n + 1 end
end

local function size_of(entry)
  local size = 0
  for _, value in ipairs(entry[2]) do size = size + #value end
  return size
end

local function sweep(keys, live, state, over, cut, heavy, waits, budget)
  local cursor, skipped, swept = state.cursor, state.skipped, state.swept
  local removed, spilled, status, room, count = 0, 0, '', 8000000, 1
  while true do
    local page = redis.call('XRANGE', keys.topic, cursor == '' and '-' or '(' .. cursor, '+', 'COUNT', count)
    if #page == 0 then break end
    local taken, upto = pending_in(keys, live, page)
    local size, stop, doomed, unread = 0, false, {}, {}
    for _, entry in ipairs(page) do
      local id = entry[1]
      if before(upto, id) then break end
      if skipped >= over and not (cut and before(id, cut)) then stop = true break end
      if budget <= 0 or room <= 0 then status, stop = 'more', true break end
      size = size + size_of(entry)
      budget = budget - 1
      if taken[id] then
        skipped = skipped + 1
      else
        local missed = false
        for _, group in ipairs(live) do
          if before(group.last, id) then
            missed = true
            if not waits then unread[group.name] = (unread[group.name] or 0) + 1 end
          end
        end
        if missed and waits then
          -- What is only old does not fill a topic.
          if skipped < over or (heavy and before(id, heavy)) then status = 'full' end
          stop = true
          break
        end
        forget_in_index(keys, id)
        doomed[#doomed + 1] = id
        over = over - 1
        if before(swept, id) then swept = id end
        if missed then spilled = spilled + 1 end
      end
      cursor = id
    end
    -- Counted first: where that is refused, nothing is dropped.
    for name, number in pairs(unread) do redis.call('HINCRBY', keys.spilled, name, number) end
    if next(unread) then redis.call('PEXPIRE', keys.spilled, keys.ttl) end
    if #doomed > 0 then removed = removed + redis.call('XDEL', keys.topic, unpack(doomed)) end
    if stop then break end
    room = room - size
    count = size < 65536 and math.min(count * 2, 64) or 1
  end
  close_stretch(keys)
  redis.call('HSET', keys.state, 'cursor', cursor, 'skipped', skipped, 'swept', swept)
  return removed, spilled, status
end

local entries, age, limit, waits = string.match(keep, '^(%d+) (%d+) (%d+) (%d)$')
entries, age, limit, waits = tonumber(entries), tonumber(age), tonumber(limit), waits == '1'
if redis.call('EXISTS', keys.topic) == 0 then return 0, 0, '' end
local length = redis.call('XLEN', keys.topic)
local stored = redis.call('HMGET', keys.state, 'cursor', 'skipped', 'swept')
local pushed, bytes = string.match(redis.call('GET', keys.tally) or '0 0', '^(%d+) (%d+)')
pushed, bytes = tonumber(pushed), tonumber(bytes)
local state = {cursor = stored[1] or '', skipped = tonumber(stored[2] or 0), swept = stored[3] or '0-0'}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local live, floor, pending = unfinished(keys, string.format('%.0f', now))
local cut, heavy
if age > 0 and age < now then cut = string.format('%.0f-0', now - age) end
if limit > 0 then
  local rank = last_sample(keys.index, function(_, upto) return bytes - upto >= limit end)
  if rank >= 0 then
    heavy = after((sample_of(redis.call('ZRANGE', keys.index, rank, rank)[1])))
    if not cut or before(cut, heavy) then cut = heavy end
  end
end
local removed = 0
if cut then
  removed = redis.call('XTRIM', keys.topic, 'MINID', '~', before(cut, floor) and cut or floor)
end
local over = entries > 0 and length - removed - entries or 0
if over > 0 then
  local trimmed = redis.call('XTRIM', keys.topic, 'MINID', '~', floor, 'LIMIT', string.format('%.0f', over))
  removed, over = removed + trimmed, over - trimmed
end
-- Those at the start have gone, or some that the cursor passed are pending no more: it begins again.
if removed > 0 or state.skipped > pending then state.cursor, state.skipped = '', 0 end
-- Redis holds up to 100 entries or 4096 bytes in a node, and a trim leaves those alone of which some stay.
local node = bytes > 0 and math.max(1, math.min(100, math.floor(4096 * pushed / bytes))) or 100
local step = math.max(1, math.min(1000, math.floor(entries / 16)))
local swept, spilled, status = 0, 0, ''
if over <= step + node then over = 0 end
if over > 0 or (cut and before(floor, cut)) then
  swept, spilled, status = sweep(keys, live, state, over, cut, heavy, waits, math.max(2000, 2 * appended))
  removed = removed + swept
elseif state.cursor ~= stored[1] then
  redis.call('HSET', keys.state, 'cursor', state.cursor, 'skipped', state.skipped)
end
if removed > 0 then
  redis.call('HINCRBY', keys.state, 'gone', removed)
  -- The samples of no more entries than are gone are of no use any more, but for the last one: bytes are counted from it.
  -- Where entries were swept from the midst they are older than `swept`, and those before it count what has gone.
  local old = redis.call('ZCOUNT', keys.index, '-inf', redis.call('HGET', keys.state, 'gone')) - 1
  if old > 0 then redis.call('ZREMRANGEBYRANK', keys.index, 0, old - 1) end
end
return removed, spilled, status
end
"""
)

# KEYS: those of `topic_keys`. ARGV: the TTL in ms, 1 to look at the entries from the first one on. Returns how many were
# removed, how many of those were spilled, and whether there is more to do; nil if nobody has said what to keep.
_TRIM = (
    RETENTION
    + """
local keys = {topic = KEYS[1], state = KEYS[2], index = KEYS[3], groups = KEYS[4], spilled = KEYS[5], tally = KEYS[6], ttl = ARGV[1]}
for i = 2, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
local keep = redis.call('HGET', keys.state, 'keep')
if not keep then return false end
if ARGV[2] == '1' then redis.call('HSET', keys.state, 'cursor', '', 'skipped', 0) end
local removed, spilled, status = retain(keys, keep, 0)
return {removed, spilled, (status == 'more' or removed >= 10000) and 1 or 0}
"""
)

# KEYS: the topic's state. ARGV: the inlet, what it declares, now and how long a declaration counts, in ms, the TTL in ms.
# Returns the inlet that declared something else lately, and what; nil if there is none.
_DECLARE = """
local declared = redis.call('HGETALL', KEYS[1])
for i = 1, #declared, 2 do
  local inlet = string.match(declared[i], '^inlet:(.*)$')
  if inlet and inlet ~= ARGV[1] then
    local at, keep = string.match(declared[i + 1], '^(%d+) (.*)$')
    if not at or ARGV[3] - at > tonumber(ARGV[4]) then redis.call('HDEL', KEYS[1], declared[i])
    elseif keep ~= ARGV[2] then return {inlet, keep} end
  end
end
redis.call('HSET', KEYS[1], 'inlet:' .. ARGV[1], ARGV[3] .. ' ' .. ARGV[2], 'keep', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return false
"""


def mark_seen(client: Any, topic: str, group: str) -> None:
    """Say that somebody reads `topic` with `group`: then nothing that it has not finished is removed."""
    key = topic_keys(topic).groups
    # A full server refuses it, and what was said before holds for days: who reads on makes room.
    with suppress(OutOfMemoryError), client.pipeline(transaction=False) as pipe:
        pipe.hset(key, group, int(time.time() * 1000))
        pipe.pexpire(key, TTL_MS)
        pipe.execute()


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What one trim of a topic removed: `spilled` of the `removed` entries had not been read by some live group."""

    topic: str
    removed: int
    spilled: int


class Retention:
    """What topics keep, apart from appends: declarations, groups that are forgotten, topics without appends."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._trim = client.register_script(_TRIM)
        self._declare = client.register_script(_DECLARE)

    def declare(self, topic: str, keep: Keep, *, inlet: str) -> None:
        """Say that `inlet` wants `topic` to keep this much.

        inlet     a name that no other inlet has: one that is run with other parameters is another one
        raises    SettingsError: another inlet of the topic declared something else in the last minutes
        """
        args = [inlet, keep.packed(), int(time.time() * 1000), LATELY_MS, TTL_MS]
        state = topic_keys(check_topic(topic)).state
        try:
            other = self._declare(keys=[state], args=args)
        except redis.ResponseError as error:
            what = f"topic {topic!r}: what it keeps was not declared, nothing was pumped"
            raise explained(error, self._client, {state: "hash"}, what=what) from error
        if other:
            name, packed = (text.decode() for text in other)
            msg = (
                f"topic {topic!r}: expected keep and when_full to be the same in all its inlets, got {str(keep)!r} from {inlet!r} "
                f"and {str(Keep.unpacked(packed))!r} from {name!r}; make them agree"
            )
            raise SettingsError(msg)

    def trim(self, topic: str) -> Trimmed | None:
        """Remove what a topic does not keep, as its appends do; None if nobody has said what it keeps."""
        removed = spilled = 0
        first, more = True, True
        while more:
            answer = self._trim(keys=topic_keys(topic), args=[TTL_MS, int(first)])
            if answer is None:
                return None
            removed, spilled, more = removed + answer[0], spilled + answer[1], answer[2]
            first = False
        return Trimmed(topic, removed, spilled)

    def forget(self, topic: str, *, after_ms: int, now_ms: int | None = None) -> list[str]:
        """Let groups that nobody has read with for so long hold nothing back any more; return their names.

        A group that is read with again, by whichever client, counts again.
        """
        now = int(time.time() * 1000) if now_ms is None else now_ms
        key = topic_keys(topic).groups

        def judge(pipe: Any) -> list[str]:
            seen = {name: abs(int(at)) for name, at in pipe.hgetall(key).items()}
            forgotten = []
            marks: dict[bytes, int] = {}
            for name in [group["name"] for group in groups_of(self._client, topic).values()]:
                last = max(seen.get(name, 0), now - self._idle(topic, name, after_ms))
                if name not in seen and last <= now - after_ms:
                    last = now  # seen for the first time: from now on it has as long as the others
                is_forgotten = now - last >= after_ms
                marks[name] = -last if is_forgotten else last
                if is_forgotten:
                    forgotten.append(group_name(name))
            pipe.multi()
            if marks:
                pipe.hset(key, mapping=marks)
                pipe.pexpire(key, TTL_MS)
            return forgotten

        # Who begins to read with a group meanwhile says so there: then they are judged again.
        return self._client.transaction(judge, key, value_from_callable=True)

    def _idle(self, topic: str, group: bytes, longest: int) -> int:
        """Return for how many ms none of a group's consumers has asked for anything; `longest` if it has none."""
        return min((c["idle"] for c in self._client.xinfo_consumers(topic, group)), default=longest)
