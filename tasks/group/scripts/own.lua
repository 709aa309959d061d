-- keys: lease state owner_lease topics...
-- args: token name owner tombstone tombstone_ttl_ms group
--
-- Make consumer `name` the owner of its group's state, unless the owner that is expected, `owner`, is alive. Returns 1; 0 if the
-- owner is alive; 2 if another consumer is the owner, so that its lease has to be looked at; -1 if this consumer was taken for dead.
-- The owner before it leaves its lease to a tombstone: it could renew an expired one, and keep entries that come first.
--
-- State lives as long as its group: it is deleted if the group is on none of the topics, because the group then begins anew.
-- include: groups_of
local own = redis.call('GET', lease)
if own and own ~= token then return -1 end
local holder = redis.call('HGET', state, 'owner') or ''
if holder ~= owner then return 2 end
if holder ~= '' and holder ~= name then
  local held = redis.call('GET', owner_lease)
  if held and held ~= tombstone then return 0 end
  redis.call('SET', owner_lease, tombstone, 'PX', tombstone_ttl_ms)
end
local is_there = false
for i = topics_from, topics_to do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    for _, each in ipairs(groups_of(KEYS[i])) do
      if each.name == group then is_there = true end
    end
  end
end
if not is_there then redis.call('DEL', state) end
redis.call('HSET', state, 'owner', name)
redis.call('HSETNX', state, 'format', '1')
redis.call('HSETNX', state, 'version', '0')
return 1
