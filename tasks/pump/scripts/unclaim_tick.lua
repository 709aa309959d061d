-- keys: beat open_claims record sign_of_life
-- args: tick token is_own
--
-- Give back the last claimed tick, for which nothing was pushed, so that it can be claimed again: its own run's, or, unless `is_own` = 1, a
-- dead run's. Returns 1 if it is unclaimed then, also if this is sent again; 0 if it is another run's, pushed, or not the last one.
local before = string.format('%.0f', tick - 1)
local last, known = redis.call('HGET', beat, 'last'), redis.call('GET', record)
if last == before and not known then return 1 end
if last ~= tick or known ~= 'claimed:' .. token then return 0 end
if is_own ~= '1' and redis.call('EXISTS', sign_of_life) == 1 then return 0 end
redis.call('DEL', record)
redis.call('HDEL', open_claims, tick)
redis.call('HSET', beat, 'last', before)
local ended = redis.call('HGET', beat, 'ended')
if ended and tonumber(ended) >= tonumber(tick) then redis.call('HSET', beat, 'ended', before) end
return 1
