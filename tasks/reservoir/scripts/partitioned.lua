-- Store how a topic is partitioned, if that is not known. Return nil, or why it cannot be partitioned in this way.
local function partitioned(partitions, topic, tally, count, key, hash)
  local known = redis.call('HMGET', partitions, 'count', 'key', 'hash')
  if known[1] then
    if known[1] == count and known[2] == key and known[3] == hash then return nil end
    return known
  end
  -- Without entries, the topic was only created for the groups of outlets that have started first.
  if redis.call('XLEN', topic) > 0 then return {'plain'} end
  redis.call('DEL', tally) -- without it, the next append to the topic itself looks whether that is partitioned
  redis.call('HSET', partitions, 'count', count, 'key', key, 'hash', hash)
  return nil
end
