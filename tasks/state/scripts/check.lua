-- keys: guard streams... hashes... zsets... strings...
-- args: cut
--
-- Refuse a cut whose appends would be refused: because a key has another type, or because the user lacks a right. The commands are
-- tried without an effect.
-- include: attempt
if redis.call('GET', guard) ~= cut then return 0 end
local function expect(kind, from, to)
  for i = from, to do
    local found = redis.call('TYPE', KEYS[i])
    found = type(found) == 'table' and found.ok or found
    if found ~= kind and found ~= 'none' then error('WRONGTYPE Operation against a key holding the wrong kind of value') end
  end
end
local is_possible, problem = pcall(function()
  expect('stream', streams_from, streams_to)
  expect('hash', hashes_from, hashes_to)
  expect('zset', zsets_from, zsets_to)
  expect('string', strings_from, strings_to)
  for i = streams_from, streams_to do
    redis.call('XLEN', KEYS[i])
    redis.call('XRANGE', KEYS[i], '0-0', '0-0')
    redis.call('XREVRANGE', KEYS[i], '0-0', '0-0')
    local answer = redis.pcall('XADD', KEYS[i], '0-0', 'field', 'value')
    if not string.find(tostring(answer.err), '0-0', 1, true) then error(answer) end -- it is no complaint about the id
  end
  for i = zsets_from, zsets_to do redis.call('ZADD', KEYS[i], 'XX', 0, '') end
end)
if is_possible then return 1 end
redis.call('SET', guard, 'refused', 'KEEPTTL')
return refused(problem)
