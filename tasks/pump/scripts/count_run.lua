-- keys: beat
-- args: run forget_before ttl_ms fresh_within about... counts...
--
-- Add the counts of a run to those of its beat: `counts` holds names and the run's totals so far. Sent again, nothing is added twice:
-- the beat remembers what this run has added. `run` is a time in microseconds, and what runs from before `forget_before` added
-- is forgotten. `about` holds fields and values that are stored as they are.
--
-- The time of each count's last increase is stored, and with `fresh_within` (seconds, '' for none) the time since when this holds.
local known, totals = 'counted:' .. run, {}
for name, total in string.gmatch(redis.call('HGET', beat, known) or '', '(%S+) (%d+)') do totals[name] = tonumber(total) end
local now, clock = {}, redis.call('TIME')
local at = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
for i = counts_from, counts_to, 2 do
  local name, total = ARGV[i], tonumber(ARGV[i + 1])
  local more = total - (totals[name] or 0)
  if more > 0 then
    redis.call('HINCRBY', beat, 'count:' .. name, string.format('%.0f', more))
    redis.call('HSET', beat, 'latest:' .. name, at)
  end
  now[#now + 1] = name .. ' ' .. ARGV[i + 1]
end
if not next(totals) then
  for _, field in ipairs(redis.call('HKEYS', beat)) do
    local other = string.match(field, '^counted:(%d+)$')
    if other and tonumber(other) < tonumber(forget_before) then redis.call('HDEL', beat, field) end
  end
end
if fresh_within == '' then
  redis.call('HDEL', beat, 'fresh_within', 'fresh_since')
else
  redis.call('HSET', beat, 'fresh_within', fresh_within)
  redis.call('HSETNX', beat, 'fresh_since', at)
end
redis.call('HSET', beat, known, table.concat(now, ' '), unpack(ARGV, about_from, about_to))
redis.call('PEXPIRE', beat, ttl_ms)
