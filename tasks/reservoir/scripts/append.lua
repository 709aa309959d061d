-- keys: topic state samples groups spilled tally partitions record [lease]
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
-- Sent again, the reply is the same. It is nil if the record does not hold what is expected or the lease is another's, 1 if
-- the topic is full, and 2 if it is partitioned; then nothing is appended, or what was appended is taken back. It is also taken
-- back if a command beside the append is refused. If even that is refused (XDEL is), the entry stays with its record, and the
-- reply is the ids and the refusal.
-- include: attempt
-- include: retention
local keys = {
  topic = topic, state = state, samples = samples, groups = groups, spilled = spilled, tally = tally, ttl = ttl_ms,
}
local is_large = ARGV[values_from] == '0'
local ids, sampled, tally_before = {}, 0, nil

-- include: append_undo

-- include: append_record

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
local function append(lease, token, expected, keep, count, partitions)
  if is_large then
    find_appended()
    if #ids == 0 then return false end
    redis.call('XDEL', keys.topic, '0-0') -- a user who may not do this must not append in this way again
  end
  local counted = redis.call('GET', keys.tally)
  tally_before = counted
  -- include: append_once
  if not counted and redis.call('EXISTS', partitions) == 1 then return instead(2) end
  -- include: append_counts
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
    -- include: append_sample
    i = last + 1
  end
  -- include: append_end
  return record_all()
end

local done, answer = pcall(append, lease, token, expected, keep, count, partitions)
if done then return answer end
local is_back = pcall(take_back)
if is_back or #ids == 0 then return refused(answer) end
return {record_all(), why(answer)}
