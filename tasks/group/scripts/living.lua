-- living(topic, group, leases, tombstone) returns the consumers of a group that are alive; nil if the group has a consumer that is
-- not in `leases`, which holds the lease of each consumer by its name.
local function living(topic, group, leases, tombstone)
  local alive = {}
  for _, reply in ipairs(redis.call('XINFO', 'CONSUMERS', topic, group)) do
    for i = 1, #reply, 2 do
      if reply[i] == 'name' then
        if not leases[reply[i + 1]] then return nil end
        local lease = redis.call('GET', leases[reply[i + 1]])
        if lease and lease ~= tombstone then alive[#alive + 1] = reply[i + 1] end
      end
    end
  end
  return alive
end
