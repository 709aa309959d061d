-- The bounds of a group's dead letters, in number and in bytes.
--
-- add_letter(keys, group, values, added, bounds) appends a letter and counts how many of the oldest are too many;
-- drop_oldest(keys, added) drops those, and take_back(keys, group, added) undoes the append instead.
-- drop_letter(keys, group, letter) removes one.
--
-- keys     letters (the stream), counts, spilled (counts dropped letters, too), ttl
-- bounds   max_letters, max_bytes and min_bytes of DeadLetterLimits; topic_bytes, how many bytes the topic keeps, 0 for any number
--
-- Nothing is dropped if counting it is refused.
local function bytes_of(values)
  local bytes = 0
  for _, value in ipairs(values) do bytes = bytes + #value end
  return bytes
end

local function counted(keys, group)
  local number, bytes = string.match(redis.call('HGET', keys.counts, group) or '', '^(%d+) (%d+)$')
  return tonumber(number) == redis.call('XLEN', keys.letters) and tonumber(bytes)
end

local function count(keys, group, number, bytes)
  redis.call('HSET', keys.counts, group, string.format('%.0f %.0f', number, bytes))
  redis.call('PEXPIRE', keys.counts, keys.ttl)
end

-- Return how many of the newest letters may stay beside one of `size`, and their bytes. They are read one at a time, as each may
-- have some megabytes.
local function fitting(keys, group, size, bounds)
  local number, bytes = redis.call('XLEN', keys.letters), counted(keys, group)
  if bytes then
    local start = '-'
    while number > 0 and (number >= bounds.max_letters or bytes + size > bounds.max_bytes) do
      local oldest = redis.call('XRANGE', keys.letters, start, '+', 'COUNT', 1)[1]
      number, bytes, start = number - 1, bytes - bytes_of(oldest[2]), '(' .. oldest[1]
    end
    return number, bytes
  end
  local start
  number, bytes, start = 0, 0, '+'
  while number < bounds.max_letters - 1 do
    local newest = redis.call('XREVRANGE', keys.letters, start, '-', 'COUNT', 1)[1]
    local more = newest and bytes + bytes_of(newest[2])
    if not more or more + size > bounds.max_bytes then break end
    number, bytes, start = number + 1, more, '(' .. newest[1]
  end
  return number, bytes
end

local function add_letter(keys, group, values, added, bounds)
  if bounds.topic_bytes > 0 then
    bounds.max_bytes = math.min(bounds.max_bytes, math.max(bounds.min_bytes, bounds.topic_bytes))
  end
  local size, before = bytes_of(values), redis.call('XLEN', keys.letters)
  local number, bytes = fitting(keys, group, size, bounds)
  added.id = redis.call('XADD', keys.letters, '*', unpack(values))
  count(keys, group, number + 1, bytes + size)
  if number < before then
    redis.call('XTRIM', keys.letters, 'MAXLEN', before + 1) -- drops none: if it is refused, nothing was counted yet
    redis.call('HINCRBY', keys.spilled, 'dead:' .. group, before - number)
    added.dropped, added.stay = before - number, number + 1
    redis.call('PEXPIRE', keys.spilled, keys.ttl)
  end
end

local function drop_oldest(keys, added)
  if added.stay then redis.call('XTRIM', keys.letters, 'MAXLEN', added.stay) end
end

local function take_back(keys, group, added)
  if added.id then redis.call('XDEL', keys.letters, added.id) end
  if added.dropped then redis.call('HINCRBY', keys.spilled, 'dead:' .. group, -added.dropped) end
  redis.call('HDEL', keys.counts, group)
end

local function drop_letter(keys, group, letter)
  local bytes = counted(keys, group)
  if bytes then
    count(keys, group, redis.call('XLEN', keys.letters) - 1, math.max(0, bytes - bytes_of(letter[2])))
  end
  redis.call('XDEL', keys.letters, letter[1])
end
