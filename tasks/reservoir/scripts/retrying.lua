-- keys: retrying
-- args: member count live_ms
--
-- Note how many calls one consumer of a topic tries again: `member` is '<group>:<consumer>'. The note lapses after `live_ms`, also
-- if other consumers keep the key alive. 0 removes it.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local notes = redis.call('HGETALL', retrying)
for i = 1, #notes, 2 do
  local until_ms = tonumber(string.match(notes[i + 1], '^%d+ (%d+)$') or 0)
  if until_ms <= now then redis.call('HDEL', retrying, notes[i]) end
end
if count == '0' then
  redis.call('HDEL', retrying, member)
else
  redis.call('HSET', retrying, member, count .. ' ' .. string.format('%.0f', now + live_ms))
  redis.call('PEXPIRE', retrying, live_ms)
end
return 1
