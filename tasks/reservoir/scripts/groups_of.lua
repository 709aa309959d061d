-- groups_of(topic) returns the reply of XINFO GROUPS as a list of tables, each with Redis' names of its fields.
local function groups_of(topic)
  local found = {}
  for _, reply in ipairs(redis.call('XINFO', 'GROUPS', topic)) do
    local group = {}
    for i = 1, #reply, 2 do group[reply[i]] = reply[i + 1] end
    found[#found + 1] = group
  end
  return found
end
