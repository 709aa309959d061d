-- keys: topic state samples groups spilled tally
-- args:
--
-- Return how much a topic holds and how far its groups have come; nil if it does not exist. The reply is its length, first and
-- last id, the time in ms, its bytes by the samples, the entries and ms since a sample about a minute ago, what it keeps, how many
-- entries and bytes were ever appended, and for each group: name, consumers, pending entries, lag (-1: unknown), oldest pending
-- id, dropped dead letters, spilled entries, when it was seen, 1 if it is ahead of the topic, the id of the first unread entry,
-- and how many entries were done and failed.
--
-- Lag: the number of entries behind a sample is known. Those between the sample and the last delivered entry are counted one by
-- one, if they are few. A sample is of no use once entries that it counts were trimmed from the start, or swept from before
-- the id `swept`, or if another client has deleted any entry.
-- include: groups_of
-- include: ids
if redis.call('EXISTS', topic) == 0 then return false end
local about = {}
local reply = redis.call('XINFO', 'STREAM', topic)
for i = 1, #reply, 2 do about[reply[i]] = reply[i + 1] end
local length = about.length
local first = length > 0 and about['first-entry'][1] or ''
local last = length > 0 and about['last-entry'][1] or ''
local stored = redis.call('HMGET', state, 'gone', 'swept', 'keep')
local pushed, appended, since, total = string.match(redis.call('GET', tally) or '', '^(%d+) (%d+) %d+ %d+ (%d+) %d+ (%d+)$')
local all = length + (stored[1] or 0)
local known = appended and all >= total + since
local swept = stored[2] or '0-0'

-- Return how many entries there are from `low`, or after it if it is '(<id>', to `high`; nil if they are too many to read.
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
  local rank = known and last_sample(samples, function(sample) return not before(id, sample) end) or -1
  if rank >= 0 then
    local sample = redis.call('ZRANGE', samples, rank, rank, 'WITHSCORES')
    local at = sample_of(sample[1])
    if not before(at, first) then
      local between = counted('(' .. at, id)
      if between then return all - sample[2] - between end
    end
  end
  local done = counted(first, id)
  if done then return length - done end
  local following = known and redis.call('ZRANGE', samples, rank + 1, rank + 1, 'WITHSCORES') or {}
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
  local rank = math.max(0, last_sample(samples, function(id) return before(id, first) end))
  local oldest = redis.call('ZRANGE', samples, rank, rank)[1]
  if oldest then
    local id, upto = sample_of(oldest)
    bytes = appended - upto
    local minute = string.format('%.0f-0', now - 60000)
    rank = math.max(0, last_sample(samples, function(sample) return before(sample, minute) end))
    local sample = redis.call('ZRANGE', samples, rank, rank, 'WITHSCORES')
    came, during = all - sample[2], now - string.match(sample[1], '^(%d+)')
  end
end

-- Return 1 if the group will skip new entries, whose ids begin at the present or above the last one; else 0.
local function is_ahead(id)
  return before(about['last-generated-id'], id) and before(string.format('%.0f-18446744073709551615', now), id) and 1 or 0
end

-- Return the id of the first entry that a group has not read; '' if there is none. Its fields, which may be large, are read only
-- where no other entry shows it.
local function first_unread(id, lag)
  if length == 0 or not before(id, last) then return '' end
  if before(id, first) then return first end
  if lag == 1 then return last end
  return redis.call('XRANGE', topic, '(' .. id, '+', 'COUNT', 1)[1][1]
end

local answer = {length, first, last, string.format('%.0f', now), string.format('%.0f', bytes), came, string.format('%.0f', during), stored[3] or '', pushed or '', appended or ''}
for _, group in ipairs(groups_of(topic)) do
  local oldest = group.pending > 0 and redis.call('XPENDING', topic, group.name, '-', '+', 1)[1][1] or ''
  local position = group['last-delivered-id']
  local lag = behind(position)
  local name = group.name
  local counts = redis.call('HMGET', spilled, 'dead:' .. name, spilled_field(name), 'done:' .. name, 'failed:' .. name)
  answer[#answer + 1] = {
    group.name, group.consumers, group.pending, lag or -1, oldest, counts[1] or '0', counts[2] or '0',
    redis.call('HGET', groups, group.name) or '', is_ahead(position), first_unread(position, lag), counts[3] or '0',
    counts[4] or '0',
  }
end
return answer
