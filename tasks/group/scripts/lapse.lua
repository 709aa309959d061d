-- keys: lease
-- args: token longest_ms
--
-- End another consumer's lease if it still holds `token` and its TTL is none that its owner sets. Returns 1 if it was ended.
local left = redis.call('PTTL', lease)
if redis.call('GET', lease) ~= token or (left >= 0 and left <= tonumber(longest_ms)) then return 0 end
return redis.call('DEL', lease)
