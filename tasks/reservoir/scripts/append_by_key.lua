-- keys: topic tally partitions record leases... streams...
-- args: expected record_ttl_ms keep ttl_ms field token partition_count partition_key partition_hash at... values...
--
-- Append entries to partitions of a topic, all or none and once for each record, and return their ids, joined by spaces.
--
-- topic, tally     of the topic itself, which has no entries
-- leases           one lease, which has to hold the token or be absent, or none
-- streams          of each partition concerned: topic state samples groups spilled tally
-- keep             what each partition keeps
-- at               of each entry, the number of its partition among `streams`, from 0 on
--
-- All other arguments are as for `append`, and so are the replies, without 2. The reply is a table if the topic is not partitioned as the
-- caller assumes. Nothing is appended if one of the partitions is full.
-- include: attempt
-- include: retention
-- include: partitioned
local ids, lease = {}, leases_from <= leases_to and KEYS[leases_from] or nil

-- include: append_record

local function instead(answer) return answer end

local function append_to(keys, count)
  local ids, sampled, tally_before = {}, 0, redis.call('GET', keys.tally)
  -- include: append_undo
  local counted = tally_before
  -- include: append_counts
  local waits = string.sub(keep, -1) == '1'

  local function add(from, last)
    local size = 0
    for j = from, last do size = size + #ARGV[j] end
    local id = redis.call('XADD', keys.topic, '*', unpack(ARGV, from, last))
    ids[#ids + 1] = id
    -- include: append_sample
    return id
  end

  local function finish()
    -- include: append_end
  end
  return {add = add, finish = finish, take_back = take_back, is_full = function() return waits and is_full() end}
end

local topics = {}

local function append()
  -- include: append_once
  local other = partitioned(partitions, topic, tally, partition_count, partition_key, partition_hash)
  if other then return other end
  local counts = {}
  for i = at_from, at_to do counts[ARGV[i] + 1] = (counts[ARGV[i] + 1] or 0) + 1 end
  for n = 1, #counts do
    local first = streams_from + 6 * (n - 1)
    -- A user who may not take entries back must not append: other partitions may refuse theirs.
    redis.call('XDEL', KEYS[first], '0-0')
    topics[n] = append_to({
      topic = KEYS[first], state = KEYS[first + 1], samples = KEYS[first + 2], groups = KEYS[first + 3],
      spilled = KEYS[first + 4], tally = KEYS[first + 5], ttl = ttl_ms,
    }, counts[n])
  end
  for _, one in ipairs(topics) do
    if one.is_full() then return 1 end
  end
  local i = values_from
  for j = at_from, at_to do
    local last = i + ARGV[i]
    ids[#ids + 1] = topics[ARGV[j] + 1].add(i + 1, last)
    i = last + 1
  end
  for _, one in ipairs(topics) do one.finish() end
  return record_all()
end

return attempt(append, function()
  for _, one in ipairs(topics) do pcall(one.take_back) end
end)
