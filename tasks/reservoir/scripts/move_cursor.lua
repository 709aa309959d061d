-- keys: cursor record
-- args: expected topic version value digest
--
-- Move a cursor without a push, from the version that was read. Returns 1, also if this move is sent again; 0 if the version is
-- another, or if the record does not hold what is expected ('' for anything).
local known = redis.call('HMGET', cursor, 'version', 'value', 'digest')
local next_version = string.format('%.0f', version + 1)
if known[1] == next_version and known[2] == value and known[3] == digest then return 1 end
if (known[1] or '0') ~= version then return 0 end
if expected ~= '' and redis.call('GET', record) ~= expected then return 0 end
local time = redis.call('TIME')
redis.call('HSET', cursor, 'version', next_version, 'value', value, 'digest', digest, 'topic', topic,
  'moved', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
return 1
