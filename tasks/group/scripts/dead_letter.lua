-- keys: lease topic letters record counts spilled state
-- args: token group id bounds record_ttl_ms ttl_ms pushed_to only_pending refusal part... about...
--
-- Append an entry to the dead letters and acknowledge it; with `part`, which holds field, value, ..., append these fields in place of
-- the entry's own, and leave the entry as it is. `pushed_to` is the topic that the entry was pushed to, another one than
-- `topic` if that is a retry topic. With `only_pending` = 1 an entry that is not pending is left alone. `about` holds field,
-- text, ... Returns 1; 0 if it was left alone; -1 if the consumer was taken for dead. `refusal` is what `lease` holds after a
-- refused command, so that nothing follows in the same transaction; '' leaves the lease as it is.
--
-- An entry that is not pending, because another client has acknowledged it or deleted its consumer or group, was delivered at
-- least once. The entry's own fields go first and untouched; 'dead:topic' begins what follows them. A retried entry ends with
-- 'retry:id' and 'retry:times' (see `tasks.group.dead_letters`), which are taken off again.
--
-- Lua's unpack() takes about 8,000 values. An entry of more fields, which no push of ours makes, leaves them in the topic.
-- include: attempt
-- include: letter_limits
local own = redis.call('GET', lease)
if own and own ~= token then return -1 end
local function give_up(answer)
  if refusal ~= '' then redis.call('SET', lease, refusal, 'KEEPTTL') end
  return answer
end
local pending = redis.pcall('XPENDING', topic, group, id, id, 1)
if pending.err and not string.find(tostring(pending.err), 'NOGROUP', 1, true) then return give_up(pending) end
local deliveries = pending[1] and tostring(pending[1][4])
if only_pending == '1' and not deliveries then return 0 end
local found = redis.pcall('XRANGE', topic, id, id)
if found.err then return give_up(found) end
local entry = found[1]
local values = entry and #entry[2] < 7900 and entry[2] or {}
local entry_id, retries, n = id, nil, #values
if pushed_to ~= topic and values[n - 3] == 'retry:id' and string.match(values[n - 2], '^%d+%-%d+$')
    and string.match(values[n], '^%d+$') then
  entry_id, retries = values[n - 2], values[n]
  for i = n - 3, n do values[i] = nil end
end
local is_part = part_to >= part_from
if is_part then
  values = {}
  for i = part_from, part_to do values[#values + 1] = ARGV[i] end
end
local details = {'dead:topic', pushed_to, 'dead:id', entry_id}
for i = about_from, about_to do details[#details + 1] = ARGV[i] end
details[#details + 1] = 'dead:deliveries'
details[#details + 1] = deliveries or '1'
if retries then
  details[#details + 1] = 'dead:retries'
  details[#details + 1] = retries
end
for _, value in ipairs(details) do values[#values + 1] = value end
local max_letters, max_bytes, min_bytes = string.match(bounds, '^(%d+) (%d+) (%d+)$')
local keep = redis.pcall('HGET', state, 'keep') -- fails if another program has put another type there
local topic_bytes = type(keep) == 'string' and string.match(keep, '^%d+ %d+ (%d+)') or 0
local keys = {letters = letters, counts = counts, spilled = spilled, ttl = ttl_ms}
local added = {}
return attempt(function()
  add_letter(keys, group, values, added, {max_letters = tonumber(max_letters), max_bytes = tonumber(max_bytes),
    min_bytes = tonumber(min_bytes), topic_bytes = tonumber(topic_bytes)})
  if not is_part then
    redis.call('PEXPIRE', record, record_ttl_ms)
    redis.call('XACK', topic, group, id)
    if pushed_to ~= topic then redis.call('XDEL', topic, id) end
  end
  drop_oldest(keys, added)
  redis.pcall('HINCRBY', spilled, 'failed:' .. group, 1) -- refused by a full server, and by a key of another type
  redis.pcall('PEXPIRE', spilled, ttl_ms)
  return 1
end, function()
  give_up()
  take_back(keys, group, added)
end)
