-- keys: beat
-- args: first_tick ttl_ms
--
-- Announce a run as the newest of its beat. Returns its token, a time in microseconds, so that tokens increase even after a flush;
-- and the time in microseconds. The older run goes on claiming until the new one claims `first_tick`.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local token = math.max(tonumber(redis.call('HGET', beat, 'newest') or '0') + 1, now)
token = string.format('%.0f', token)
redis.call('HSET', beat, 'newest', token, 'from', first_tick)
-- Ticks are counted from the first run's first tick on.
local last, ended = redis.call('HGET', beat, 'last'), redis.call('HGET', beat, 'ended')
if not last and not ended then redis.call('HSET', beat, 'ended', first_tick - 1) end
redis.call('PEXPIRE', beat, ttl_ms)
return {token, string.format('%.0f', now)}
