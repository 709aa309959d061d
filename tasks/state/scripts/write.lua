-- keys: guard state
-- args: cut version time nodes... fields... removed...
--
-- Store the changes of a cut. `nodes` and `fields` hold field, value, ...; `removed` holds fields.
if redis.call('GET', guard) ~= cut then return 0 end
local function in_parts(command, from, to)
  for first = from, to, 1000 do redis.call(command, state, unpack(ARGV, first, math.min(first + 999, to))) end
end
in_parts('HDEL', removed_from, removed_to)
in_parts('HSET', fields_from, fields_to)
in_parts('HSET', nodes_from, nodes_to)
redis.call('HSET', state, 'cut', cut, 'version', version, 'time', time)
return 1
