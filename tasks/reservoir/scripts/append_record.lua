-- record_all() records the ids of an append, and returns them, joined by spaces.
--
-- Needs ids, record, field and record_ttl_ms.
local function record_all()
  local joined = table.concat(ids, ' ')
  if field == '' then
    redis.call('SET', record, '=' .. joined, 'PX', record_ttl_ms)
  else
    redis.call('HSET', record, field, '=' .. joined)
    redis.call('PEXPIRE', record, record_ttl_ms)
  end
  return joined
end

