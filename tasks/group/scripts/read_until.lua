-- keys: lease topic
-- args: token group consumer count until_id
--
-- Read entries up to `until_id`. Returns the server's time before the read, in microseconds, and the entries, as XRANGE does; nil
-- if this consumer was taken for dead.
--
-- The server counts all entries that it has read for a group as delivered. Those behind `until_id` are given back in the same
-- script, with the group's position, so that no other consumer misses them, and no count includes them.
-- include: groups_of
-- include: ids
local own = redis.call('GET', lease)
if own and own ~= token then return false end
local clock, known = redis.call('TIME')
local micros = string.format('%.0f', clock[1] * 1000000 + clock[2])
for _, each in ipairs(groups_of(topic)) do
  if each.name == group then known = each end
end
local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', topic, '>')
if not reply then return {micros, {}} end
local entries, found = reply[1][2], {}
for _, entry in ipairs(entries) do
  if before(until_id, entry[1]) then
    redis.call('XACK', topic, group, entry[1])
  else
    found[#found + 1] = entry
  end
end
if #found < #entries then
  local position = #found > 0 and found[#found][1] or known['last-delivered-id']
  local entries_read = tonumber(known['entries-read']) -- missing in Redis 6.2, and sometimes nil in later ones
  if entries_read then
    redis.call('XGROUP', 'SETID', topic, group, position, 'ENTRIESREAD', entries_read + #found)
  else
    redis.call('XGROUP', 'SETID', topic, group, position)
  end
end
return {micros, found}
