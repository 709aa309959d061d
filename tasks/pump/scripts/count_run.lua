-- keys: beat
-- args: run forget_before ttl_ms about... counts...
--
-- Add the counts of a run to those of its beat: `counts` holds names and the run's totals so far. Sent again, nothing is added twice:
-- the beat remembers what this run has added. `run` is a time in microseconds, and what runs from before `forget_before` added
-- is forgotten. `about` holds fields and values that are stored as they are.
local known, totals = 'counted:' .. run, {}
for name, total in string.gmatch(redis.call('HGET', beat, known) or '', '(%S+) (%d+)') do totals[name] = tonumber(total) end
local now = {}
for i = counts_from, counts_to, 2 do
  local name, total = ARGV[i], tonumber(ARGV[i + 1])
  local more = total - (totals[name] or 0)
  if more > 0 then redis.call('HINCRBY', beat, 'count:' .. name, string.format('%.0f', more)) end
  now[#now + 1] = name .. ' ' .. ARGV[i + 1]
end
if not next(totals) then
  for _, field in ipairs(redis.call('HKEYS', beat)) do
    local other = string.match(field, '^counted:(%d+)$')
    if other and tonumber(other) < tonumber(forget_before) then redis.call('HDEL', beat, field) end
  end
end
redis.call('HSET', beat, known, table.concat(now, ' '), unpack(ARGV, about_from, about_to))
redis.call('PEXPIRE', beat, ttl_ms)
