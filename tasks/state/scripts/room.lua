-- keys: guard topic state samples groups spilled tally
-- args: cut keep ttl_ms count
--
-- Refuse a cut if a topic of its results is full.
-- include: retention
if redis.call('GET', guard) ~= cut then return 0 end
if string.sub(keep, -1) ~= '1' then return 1 end
local keys = {topic = topic, state = state, samples = samples, groups = groups, spilled = spilled, tally = tally, ttl = ttl_ms}
local _, _, status = retain(keys, keep, tonumber(count))
if status == 'full' then redis.call('SET', guard, 'full', 'KEEPTTL') end
return 1
