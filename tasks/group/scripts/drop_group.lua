-- keys: topic groups spilled letters leases... doomed...
-- args: group tombstone consumers...
--
-- Delete a group, its fields in the hashes beside the topic, and the keys `doomed`. `consumers` are all that the group has, with
-- their `leases`. Returns the consumers that are alive: then nothing was changed; nil if the group has a consumer that is not
-- named.
--
-- The group goes last, so that an error before it leaves a group that can be dropped again.
-- include: groups_of
-- include: living
local function group_exists()
  if redis.call('EXISTS', topic) == 0 then return false end
  for _, each in ipairs(groups_of(topic)) do
    if each.name == group then return true end
  end
  return false
end

local named = {}
for n = 0, consumers_to - consumers_from do named[ARGV[consumers_from + n]] = KEYS[leases_from + n] end
local exists, alive = group_exists(), {}
if exists then alive = living(topic, group, named, tombstone) end
if not alive then return false end
if #alive > 0 then return alive end
redis.call('HDEL', groups, group)
redis.call('HDEL', spilled, spilled_field(group), 'dead:' .. group, 'done:' .. group, 'failed:' .. group)
redis.call('HDEL', letters, group)
for i = doomed_from, doomed_to do redis.call('UNLINK', KEYS[i]) end
if exists then redis.call('XGROUP', 'DESTROY', topic, group) end
return {}
