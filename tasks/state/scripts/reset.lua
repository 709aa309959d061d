-- keys: state
-- args: node prefix
--
-- Delete the state of a node, whose fields begin with `prefix`. The version is raised, so that a running consumer begins anew
-- with what is left. Returns how many fields were deleted; -1 if nothing is stored under this name.
if redis.call('HDEL', state, 'node:' .. node) == 0 then return -1 end
local gone = {}
for _, field in ipairs(redis.call('HKEYS', state)) do
  if string.sub(field, 1, #prefix) == prefix then gone[#gone + 1] = field end
end
for first = 1, #gone, 1000 do redis.call('HDEL', state, unpack(gone, first, math.min(first + 999, #gone))) end
redis.call('HINCRBY', state, 'version', 1)
return #gone
