-- keys: lease topic
-- args: group consumer tombstone
--
-- Remove a dead consumer that has nothing pending. Returns 1 if it was removed.
--
-- XGROUP DELCONSUMER deletes what is pending, so it runs only for consumers that have nothing. When Redis 6.2 is out of memory it
-- admits that command only behind another write, for which an XACK of nothing will do.
local holder = redis.call('GET', lease)
if holder and holder ~= tombstone then return 0 end
if #redis.call('XPENDING', topic, group, '-', '+', 1, consumer) > 0 then return 0 end
redis.call('XACK', topic, group, '0-0')
redis.call('XGROUP', 'DELCONSUMER', topic, group, consumer)
return 1
