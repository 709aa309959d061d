-- keys: lease
-- args: token ttl_ms
--
-- Renew a lease. Returns 1 if it was held, 0 if it had lapsed and is held again, -1 if the consumer was taken for dead.
-- PEXPIRE also works on a server that is out of memory.
local holder = redis.call('GET', lease)
if holder and holder ~= token then return -1 end
if holder then return redis.call('PEXPIRE', lease, ttl_ms) end
redis.call('SET', lease, token, 'PX', ttl_ms)
return 0
