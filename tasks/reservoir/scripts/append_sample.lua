-- Count an entry. Every 64 entries or 64 KB a sample is added, so that there is never much to read from one sample to the next.
--
-- Needs what append_counts makes, and keys, id, size and sampled.
bytes, since, since_bytes = bytes + size, since + 1, since_bytes + size
if not counted or since >= 64 or since_bytes >= 65536 then
  if not counted then redis.call('DEL', keys.samples) end
  local length = redis.call('XLEN', keys.topic)
  local all = length + (redis.call('HGET', keys.state, 'gone') or 0)
  if counted and all < total + since then -- another client has deleted entries, it is unknown where
    redis.call('DEL', keys.samples)
    redis.call('HSET', keys.state, 'gone', 0)
    all = length
  end
  counted, total, since, since_bytes = true, all, 0, 0
  redis.call('ZADD', keys.samples, string.format('%.0f', total), id .. string.format(' %.0f', bytes))
  sampled = sampled + 1
  redis.call('PEXPIRE', keys.samples, keys.ttl)
end
