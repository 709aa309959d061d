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

-- spilled_field(name) returns the field of a group's spilled entries. Groups of other programs can have names like 'dead:x', which is
-- the field of the dropped letters of group 'x'.
local function spilled_field(name)
  return string.find(name, ':', 1, true) and 'spilled:' .. name or name
end
