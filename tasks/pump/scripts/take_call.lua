-- keys: calls pause
-- args: most period_ms
--
-- Count a call of a source, unless there is a pause, or there were `most` calls within the period. Returns 0, or the ms
-- until a call may be allowed. `calls` holds the times of the latest `most` calls, the newest first.
local left = redis.call('PTTL', pause)
if left > 0 then return left end
local count, period = tonumber(most), tonumber(period_ms)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local oldest = redis.call('LINDEX', calls, count - 1)
if oldest then
  -- A clock that was set back must not close the source for longer than a period.
  local wait = math.min(period, tonumber(oldest) + period - now)
  if wait > 0 then return wait end
end
redis.call('LPUSH', calls, string.format('%.0f', now))
redis.call('LTRIM', calls, 0, count - 1)
redis.call('PEXPIRE', calls, period)
return 0
