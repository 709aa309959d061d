-- keys: topic state leases... records...
-- args: group start tombstone force consumers... ids...
--
-- Set a group to `start`, and acknowledge the pending entries `ids`, whose results are in `records`. `consumers` are all that the
-- group has, with their `leases`. Returns how many were acknowledged, how many entries are still pending, the consumers that are
-- alive, and 1 if the group had kept state; nil if the group has a consumer that is not named.
--
-- All pending entries have to be acknowledged, or they would come twice: redelivered, and read again. The records of their
-- results go with them, so that the results are made again. Each call sets the id, so an interrupted rewind loses
-- nothing: acknowledged entries are read again, the others are redelivered. The state that the group keeps is deleted, because
-- the entries that it was made of would be in it twice.
-- include: living
local named = {}
for n = 0, consumers_to - consumers_from do named[ARGV[consumers_from + n]] = KEYS[leases_from + n] end
local alive = living(topic, group, named, tombstone)
if not alive then return false end
if #alive > 0 and force ~= '1' then return {0, 0, alive, 0} end
local acknowledged, had_state = 0, redis.call('DEL', state)
for n = 0, ids_to - ids_from do
  acknowledged = acknowledged + redis.call('XACK', topic, group, ARGV[ids_from + n])
  redis.call('UNLINK', KEYS[records_from + n])
end
redis.call('XGROUP', 'SETID', topic, group, start)
return {acknowledged, redis.call('XPENDING', topic, group)[1], alive, had_state}
