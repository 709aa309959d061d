-- keys: topic state samples groups spilled tally
-- args: ttl_ms from_first declared_before_ms
--
-- Remove entries beyond what a topic keeps. With `from_first` = 1 the sweep begins at the first entry. Returns how many entries
-- were removed, how many of those were spilled, and 1 if there is more to do; nil if nothing has declared what the topic keeps.
-- Declarations of outlets from before `declared_before_ms` are deleted: no removal of an outlet or a group finds them.
-- include: retention
local keys = {
  topic = topic, state = state, samples = samples, groups = groups, spilled = spilled, tally = tally, ttl = ttl_ms,
}
for _, key in ipairs({state, samples, groups, spilled, tally}) do redis.call('PEXPIRE', key, ttl_ms) end
local declared = redis.call('HGETALL', state)
for i = 1, #declared, 2 do
  if string.find(declared[i], '^outlet:') and tonumber(string.match(declared[i + 1], '^%d+')) < tonumber(declared_before_ms) then
    redis.call('HDEL', state, declared[i])
  end
end
local keep = redis.call('HGET', state, 'keep')
if not keep then return false end
if from_first == '1' then redis.call('HSET', state, 'cursor', '', 'skipped', 0) end
local removed, lost, status = retain(keys, keep, 0)
return {removed, lost, (status == 'more' or removed >= 10000) and 1 or 0}
