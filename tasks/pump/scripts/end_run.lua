-- keys: beat
-- args: token last_tick first_tick
--
-- Note the last tick that a run has counted. A later run that has claimed counts for itself. Returns how many ticks before the
-- run's first no run had claimed or counted, if the run has claimed none.
local active = tonumber(redis.call('HGET', beat, 'active') or '0')
local ended = tonumber(redis.call('HGET', beat, 'ended') or '0')
if active > tonumber(token) then return 0 end
local gap = 0
if active < tonumber(token) then
  gap = math.max(0, first_tick - 1 - math.max(ended, tonumber(redis.call('HGET', beat, 'last') or '0')))
end
if ended < tonumber(last_tick) then redis.call('HSET', beat, 'ended', last_tick) end
return gap
