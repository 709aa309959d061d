-- keys: lease other_lease topic
-- args: token group to holder count tombstone tombstone_ttl_ms
--
-- Move up to `count` pending entries of the consumer `holder` to the consumer `to`. `other_lease` is that of the other one of the
-- two. Returns the ids that were moved; nil if this consumer was taken for dead.
local own = redis.call('GET', lease)
if own and own ~= token then return false end
local other = redis.call('GET', other_lease)
if other and other ~= tombstone then return {} end
local ids = {}
for _, entry in ipairs(redis.call('XPENDING', topic, group, '-', '+', count, holder)) do
  redis.call('XCLAIM', topic, group, to, 0, entry[1], 'JUSTID') -- counts no delivery
  ids[#ids + 1] = entry[1]
end
if #ids > 0 then redis.call('SET', other_lease, tombstone, 'PX', tombstone_ttl_ms) end
return ids
