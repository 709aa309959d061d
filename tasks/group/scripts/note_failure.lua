-- keys: lease record
-- args: token field text ttl_ms
--
-- Note beside an entry how often a call on it has failed. `text` holds the number of failures and the last error; an empty one
-- removes the note. Returns 1; -1 if the consumer was taken for dead.
local own = redis.call('GET', lease)
if own and own ~= token then return -1 end
if text == '' then
  redis.call('HDEL', record, field)
else
  redis.call('HSET', record, field, text)
  redis.call('PEXPIRE', record, ttl_ms)
end
return 1
