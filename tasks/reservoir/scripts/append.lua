-- keys: topic state samples groups spilled tally record [lease]
-- args: expected record_ttl_ms keep ttl_ms count field token values...
--
-- Append entries once for each record, and return their ids, joined by spaces.
--
-- lease, token     append only if the lease holds the token, or is absent; nil: append for any caller
-- expected         what the record has to hold, '' for anything
-- keep             what the topic keeps, '' for everything
-- count            how many entries `values` holds
-- field            where in the record, if it is a hash; '' if it is a string
-- values           for each entry the number of its values and the values: field, bytes, ...; or 0 and the size of one
--                  entry that the same transaction has appended just before
--
-- Sent again, the reply is the same. It is nil if the record does not hold what is expected or the lease is another's, and 1 if
-- the topic is full; then nothing is appended, or what was appended is taken back. It is also taken back if a command beside
-- the append is refused. If even that is refused (XDEL is), the entry stays with its record, and the reply is the ids and
-- the refusal.
--
-- Every 64 entries or 64 KB a sample is added, so that there is never much to read from one sample to the next. Retention
-- looks at the topic only now and then, as a look costs more than the append.
-- include: attempt
-- include: retention
local keys = {
  topic = topic, state = state, samples = samples, groups = groups, spilled = spilled, tally = tally, ttl = ttl_ms,
}
local is_large = ARGV[values_from] == '0'
local ids, sampled, tally_before = {}, 0, nil

local function take_back()
  if #ids == 0 then return end
  for first = 1, #ids, 1000 do redis.call('XDEL', keys.topic, unpack(ids, first, math.min(first + 999, #ids))) end
  ids = {}
  if sampled > 0 then redis.call('ZREMRANGEBYRANK', keys.samples, -sampled, -1) end
  if tally_before then redis.call('SET', keys.tally, tally_before, 'PX', keys.ttl) else redis.call('DEL', keys.tally) end
end

local function record_all()
  local joined = table.concat(ids, ' ')
  if field == '' then
    redis.call('SET', record, '=' .. joined, 'PX', record_ttl_ms)
  else
    redis.call('HSET', record, field, '=' .. joined)
    redis.call('PEXPIRE', record, record_ttl_ms)
  end
  return joined
end

local function instead(answer)
  take_back()
  return answer
end

local function last_id_by(group)
  for _, each in ipairs(groups_of(keys.topic)) do
    if each.name == group then return each['last-delivered-id'] end
  end
end

-- Find the id of the entry that was appended just before; none if that was refused.
local function find_appended()
  if redis.call('EXISTS', keys.topic) == 0 then return end
  local before = last_id_by(record)
  redis.call('XGROUP', before and 'SETID' or 'CREATE', keys.topic, record, '$')
  local last = last_id_by(record)
  if last ~= before then ids[1] = last end
  redis.call('XGROUP', 'DESTROY', keys.topic, record)
end

-- These are parameters, and keys are in one table, because each variable that a function captures is an allocation in each call.
local function append(lease, token, expected, keep, count)
  if is_large then
    find_appended()
    if #ids == 0 then return false end
    redis.call('XDEL', keys.topic, '0-0') -- a user who may not do this must not append in this way again
  end
  local counted = redis.call('GET', keys.tally)
  tally_before = counted
  if lease then
    local holder = redis.call('GET', lease)
    if holder and holder ~= token then return instead(false) end
  end
  local known
  if field == '' then known = redis.call('GET', record) else known = redis.call('HGET', record, field) end
  if known and string.sub(known, 1, 1) == '=' then return instead(string.sub(known, 2)) end
  if expected ~= '' and known ~= expected then return instead(false) end
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

  -- A topic that waits is looked at before the append, which may be refused; one that spills after it.
  local waits = string.sub(keep, -1) == '1'
  if waits and is_full() then return 1 end
  local i = values_from
  while i <= values_to do
    local last, size, id = i + ARGV[i], 0, nil
    if is_large then
      last, size, id = i + 1, tonumber(ARGV[i + 1]), ids[1]
    else
      for j = i + 1, last do size = size + #ARGV[j] end
      id = redis.call('XADD', keys.topic, '*', unpack(ARGV, i + 1, last))
      ids[#ids + 1] = id
    end
    bytes, since, since_bytes = bytes + size, since + 1, since_bytes + size
    if not counted or since >= 64 or since_bytes >= 65536 then
      if not counted then redis.call('DEL', keys.samples) end
      local length = redis.call('XLEN', keys.topic)
      local all = length + (redis.call('HGET', keys.state, 'gone') or 0)
      if counted and all < total + since then -- another client has deleted entries, it is unknown where
        redis.call('DEL', keys.samples)
        redis.call('HSET', keys.state, 'gone', 0)
        all = length
      end
      counted, total, since, since_bytes = true, all, 0, 0
      redis.call('ZADD', keys.samples, string.format('%.0f', total), id .. string.format(' %.0f', bytes))
      sampled = sampled + 1
      redis.call('PEXPIRE', keys.samples, keys.ttl)
    end
    i = last + 1
  end
  pushed = upto
  remember()
  if keep ~= '' and not waits then
    local before = due
    is_full()
    if due ~= before then remember() end
  end
  return record_all()
end

local done, answer = pcall(append, lease, token, expected, keep, count)
if done then return answer end
local is_back = pcall(take_back)
if is_back or #ids == 0 then return refused(answer) end
return {record_all(), why(answer)}
