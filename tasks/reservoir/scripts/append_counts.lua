-- is_full() lets retention look at the topic if that is due; remember() stores its counts.
--
-- Needs keys, keep, count and counted, the text of the counts.
-- Entries and bytes appended; the numbers of both at which retention looks again; entries and bytes since the last sample;
-- entries up to that, including those of other clients.
local pushed, bytes, due, due_bytes, since, since_bytes, total = string.match(counted or '0 0 0 0 0 0 0', '(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)')
local upto = pushed + count

local function is_full()
  if upto <= tonumber(due) and tonumber(bytes) <= tonumber(due_bytes) then return false end
  local entries, limit = string.match(keep, '^(%d+) %d+ (%d+)')
  local _, _, status = retain(keys, keep, tonumber(count))
  due, due_bytes = upto, bytes
  if status == '' then
    due = upto + (entries == '0' and 64 or math.max(1, math.min(1000, math.floor(entries / 16))))
    due_bytes = limit == '0' and 9007199254740992 or bytes + math.floor(limit / 16)
  end
  redis.call('HSET', keys.state, 'keep', keep)
  redis.call('PEXPIRE', keys.state, keys.ttl)
  redis.call('PEXPIRE', keys.groups, keys.ttl)
  return status == 'full'
end

local function remember()
  redis.call('SET', keys.tally, string.format('%.0f %.0f %.0f %.0f %.0f %.0f %.0f', pushed, bytes, due, due_bytes, since,
    since_bytes, total), 'PX', keys.ttl)
end

