-- keys: letters record counts [retries]
-- args: id record_ttl_ms counts_ttl_ms group
--
-- Remove a letter; move its entry to `retries`, unless that is nil. `record` remembers the letter that this replay has taken last.
-- Returns 1 if the letter was moved or removed, also when the command is sent again; 0 if there is no such letter; -1 if it
-- cannot be replayed: it has no fields, because the entry was trimmed before it failed or had more than a script can move, or
-- no id of an entry.
-- include: attempt
-- include: letter_limits
-- include: details_of
if redis.call('GET', record) == id then return 1 end
local letter = redis.call('XRANGE', letters, id, id)[1]
if not letter then return 0 end
local keys, values = {letters = letters, counts = counts, ttl = counts_ttl_ms}, nil
if retries then
  local details, n = details_of(letter[2])
  if n == 0 or n > 7900 or not string.match(details['dead:id'] or '', '^%d+%-%d+$') then return -1 end
  values = {unpack(letter[2], 1, n)}
  values[n + 1], values[n + 2] = 'retry:id', details['dead:id']
  values[n + 3], values[n + 4] = 'retry:times', string.format('%.0f', (tonumber(details['dead:retries']) or 0) + 1)
end
local before, moved = redis.call('GET', record), nil
return attempt(function()
  -- First, as a user who may not do this could not take back what follows, and a full server refuses no script that has written.
  redis.call('XDEL', letters, '0-0')
  redis.call('SET', record, id, 'PX', record_ttl_ms)
  if values then moved = redis.call('XADD', retries, '*', unpack(values)) end
  drop_letter(keys, group, letter)
  return 1
end, function()
  if before then redis.call('SET', record, before, 'PX', record_ttl_ms) else redis.call('DEL', record) end
  if moved then redis.call('XDEL', retries, moved) end
end)
