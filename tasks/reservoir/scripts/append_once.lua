-- Return the ids of an earlier append of the same record, or nil if this append is not permitted.
--
-- Needs lease, token, record, field, expected and instead().
if lease then
  local holder = redis.call('GET', lease)
  if holder and holder ~= token then return instead(false) end
end
local known
if field == '' then known = redis.call('GET', record) else known = redis.call('HGET', record, field) end
if known and string.sub(known, 1, 1) == '=' then return instead(string.sub(known, 2)) end
if expected ~= '' and known ~= expected then return instead(false) end
