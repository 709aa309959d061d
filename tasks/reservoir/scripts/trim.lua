-- keys: topic state samples groups spilled tally
-- args: ttl_ms from_first
--
-- Remove entries beyond what a topic keeps. With `from_first` = 1 the sweep begins at the first entry. Returns how many entries
-- were removed, how many of those were spilled, and 1 if there is more to do; nil if no inlet has declared what the topic keeps.
-- include: retention
local keys = {
  topic = topic, state = state, samples = samples, groups = groups, spilled = spilled, tally = tally, ttl = ttl_ms,
}
for _, key in ipairs({state, samples, groups, spilled, tally}) do redis.call('PEXPIRE', key, ttl_ms) end
local keep = redis.call('HGET', state, 'keep')
if not keep then return false end
if from_first == '1' then redis.call('HSET', state, 'cursor', '', 'skipped', 0) end
local removed, lost, status = retain(keys, keep, 0)
return {removed, lost, (status == 'more' or removed >= 10000) and 1 or 0}
