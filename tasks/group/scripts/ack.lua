-- keys: lease topics... counts... records...
-- args: token group record_ttl_ms counts_ttl_ms done...
--
-- Acknowledge entries of several topics. `done` holds for each topic 1 if it is a retry topic, whose entries go with their
-- acknowledgement, and its ids in one text, which redis-py sends in half the time. `counts` holds for each topic the hash in which
-- they are counted as done. `records` are those of results that cannot come again after this; they stay for `record_ttl_ms`.
-- Returns how many were acknowledged; -1 if the consumer was taken for dead.
--
-- One script for all topics: a join would pair what is left of one topic with later entries.
local own = redis.call('GET', lease)
if own and own ~= token then return -1 end
for i = records_from, records_to do redis.call('PEXPIRE', KEYS[i], record_ttl_ms) end
local acknowledged = 0
for n = 0, topics_to - topics_from do
  local topic, is_retry, ids = KEYS[topics_from + n], ARGV[done_from + 2 * n], {}
  local before = acknowledged
  local function flush()
    acknowledged = acknowledged + redis.call('XACK', topic, group, unpack(ids))
    if is_retry == '1' then redis.call('XDEL', topic, unpack(ids)) end
    ids = {}
  end
  local count = 0
  for id in string.gmatch(ARGV[done_from + 2 * n + 1], '%S+') do
    count = count + 1
    ids[count] = id
    if count == 1000 then
      flush()
      count = 0
    end
  end
  if count > 0 then flush() end
  -- A full server refuses to count, and must go on to acknowledge.
  if acknowledged > before then
    redis.pcall('HINCRBY', KEYS[counts_from + n], 'done:' .. group, acknowledged - before)
    redis.pcall('PEXPIRE', KEYS[counts_from + n], counts_ttl_ms)
  end
end
return acknowledged
