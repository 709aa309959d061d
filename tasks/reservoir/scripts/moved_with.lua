-- Move a cursor with the append that append_entries() makes, and return the reply of that.
--
-- The cursor is moved first, and moved back if nothing was appended: of the two writes, that one can be undone for certain.
local function is_recorded()
  local known = redis.call('GET', record)
  return known and string.sub(known, 1, 1) == '='
end

if is_recorded() then return append_entries() end
local before = redis.call('HMGET', cursor, 'version', 'value', 'digest', 'moved')
if (before[1] or '0') ~= version then
  expected = 'another version of the cursor' -- so that a large entry, which is in the topic already, is taken back
  return append_entries()
end
local time = redis.call('TIME')
redis.call('HSET', cursor, 'version', string.format('%.0f', version + 1), 'value', value, 'digest', digest, 'topic', topic,
  'moved', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
local answer = append_entries()
if not is_recorded() then
  if before[1] then
    redis.call('HSET', cursor, 'version', before[1], 'value', before[2] or '', 'digest', before[3] or '', 'moved', before[4] or '0')
  else
    redis.call('DEL', cursor)
  end
end
return answer
