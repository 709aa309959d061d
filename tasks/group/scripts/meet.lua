-- keys: members
-- args: name ttl_ms
--
-- Count a run as a member for another `ttl_ms`, and forget those whose time is over. Returns the member's rank by name, from 0, and
-- the number of members.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREMRANGEBYSCORE', members, '-inf', string.format('%.0f', now))
redis.call('ZADD', members, string.format('%.0f', now + ttl_ms), name)
redis.call('PEXPIRE', members, ttl_ms)
local rank = 0
local all = redis.call('ZRANGE', members, 0, -1)
for _, other in ipairs(all) do
  if other < name then rank = rank + 1 end
end
return {rank, #all}
