-- retain(keys, keep, appended) removes entries beyond `keep`. One call removes a bounded number of them, but more than were just
-- `appended`. It returns how many it removed, how many of those some live group had not read, and 'full' (appends have to
-- wait), 'more' (call again) or ''.
--
-- An entry is finished when every live group has read and acknowledged it. First the finished entries at the start of the topic
-- go, whole nodes at a time, without a look at any entry. If that is not enough, because an older entry is still pending or a
-- live group lags, the oldest entries are looked at one by one, and those that are pending in no group go. The cursor
-- remembers how far that has come, and how many pending entries it has passed.
--
-- The helpers are inside the function, so that a script pays for them only when it calls it.
-- include: groups_of
local function retain(keys, keep, appended)
-- include: ids
local function unfinished(keys, now)
  local live, floor, pending = {}, '18446744073709551615-18446744073709551615', 0
  for _, group in ipairs(groups_of(keys.topic)) do
    local seen = redis.call('HGET', keys.groups, group.name)
    if not seen then
      redis.call('HSET', keys.groups, group.name, now)
      redis.call('PEXPIRE', keys.groups, keys.ttl)
    end
    if not seen or string.sub(seen, 1, 1) ~= '-' then
      group.last = group['last-delivered-id']
      live[#live + 1] = group
      local oldest = after(group.last)
      if group.pending > 0 then
        pending = pending + group.pending
        local first = redis.call('XPENDING', keys.topic, group.name, '-', '+', 1)[1][1]
        if before(first, oldest) then oldest = first end
      end
      if before(oldest, floor) then floor = oldest end
    end
  end
  return live, floor, pending
end

local function pending_in(keys, live, page)
  local found, upto = {}, page[#page][1]
  for _, group in ipairs(live) do
    if group.pending > 0 then
      local some = redis.call('XPENDING', keys.topic, group.name, page[1][1], upto, 256)
      for _, one in ipairs(some) do found[one[1]] = true end
      if #some == 256 then upto = some[256][1] end
    end
  end
  return found, upto
end

-- Each removed entry is one less between the sample before it and the end. They come in order, many to a sample.
local stretch
local function close_stretch(keys)
  if stretch and stretch.n > 0 then redis.call('ZINCRBY', keys.samples, stretch.n, stretch.sample) end
  stretch = nil
end

local function forget_in_index(keys, id)
  if not stretch or (stretch.upto and before(stretch.upto, id)) then
    close_stretch(keys)
    local rank = last_sample(keys.samples, function(sample) return before(sample, id) end)
    local near = redis.call('ZRANGE', keys.samples, math.max(rank, 0), rank + 1)
    stretch = {sample = rank >= 0 and near[1], upto = near[rank >= 0 and 2 or 1], n = 0}
    stretch.upto = stretch.upto and sample_of(stretch.upto)
  end
  if stretch.sample and id ~= stretch.upto then stretch.n = stretch.n + 1 end
end

local function size_of(entry)
  local size = 0
  for _, value in ipairs(entry[2]) do size = size + #value end
  return size
end

local function sweep(keys, live, state, over, cut, heavy, waits, budget)
  local cursor, skipped, swept = state.cursor, state.skipped, state.swept
  local removed, spilled, status, room, count = 0, 0, '', 8000000, 1
  while true do
    local page = redis.call('XRANGE', keys.topic, cursor == '' and '-' or '(' .. cursor, '+', 'COUNT', count)
    if #page == 0 then break end
    local taken, upto = pending_in(keys, live, page)
    local size, stop, doomed, unread = 0, false, {}, {}
    for _, entry in ipairs(page) do
      local id = entry[1]
      if before(upto, id) then break end
      if skipped >= over and not (cut and before(id, cut)) then stop = true break end
      if budget <= 0 or room <= 0 then status, stop = 'more', true break end
      size = size + size_of(entry)
      budget = budget - 1
      if taken[id] then
        skipped = skipped + 1
      else
        local missed = false
        for _, group in ipairs(live) do
          if before(group.last, id) then
            missed = true
            if not waits then unread[group.name] = (unread[group.name] or 0) + 1 end
          end
        end
        if missed and waits then
          -- Entries that are only too old do not fill a topic.
          if skipped < over or (heavy and before(id, heavy)) then status = 'full' end
          stop = true
          break
        end
        forget_in_index(keys, id)
        doomed[#doomed + 1] = id
        over = over - 1
        if before(swept, id) then swept = id end
        if missed then spilled = spilled + 1 end
      end
      cursor = id
    end
    -- Count first: if that is refused, nothing is dropped.
    for name, number in pairs(unread) do redis.call('HINCRBY', keys.spilled, spilled_field(name), number) end
    if next(unread) then redis.call('PEXPIRE', keys.spilled, keys.ttl) end
    if #doomed > 0 then removed = removed + redis.call('XDEL', keys.topic, unpack(doomed)) end
    if stop then break end
    room = room - size
    count = size < 65536 and math.min(count * 2, 64) or 1
  end
  close_stretch(keys)
  redis.call('HSET', keys.state, 'cursor', cursor, 'skipped', skipped, 'swept', swept)
  return removed, spilled, status
end

local entries, age, limit, waits = string.match(keep, '^(%d+) (%d+) (%d+) (%d)$')
entries, age, limit, waits = tonumber(entries), tonumber(age), tonumber(limit), waits == '1'
if redis.call('EXISTS', keys.topic) == 0 then return 0, 0, '' end
local length = redis.call('XLEN', keys.topic)
local stored = redis.call('HMGET', keys.state, 'cursor', 'skipped', 'swept')
local pushed, bytes = string.match(redis.call('GET', keys.tally) or '0 0', '^(%d+) (%d+)')
pushed, bytes = tonumber(pushed), tonumber(bytes)
local state = {cursor = stored[1] or '', skipped = tonumber(stored[2] or 0), swept = stored[3] or '0-0'}
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local live, floor, pending = unfinished(keys, string.format('%.0f', now))
local cut, heavy
if age > 0 and age < now then cut = string.format('%.0f-0', now - age) end
if limit > 0 then
  local rank = last_sample(keys.samples, function(_, upto) return bytes - upto >= limit end)
  if rank >= 0 then
    heavy = after((sample_of(redis.call('ZRANGE', keys.samples, rank, rank)[1])))
    if not cut or before(cut, heavy) then cut = heavy end
  end
end
local removed = 0
if cut then
  removed = redis.call('XTRIM', keys.topic, 'MINID', '~', before(cut, floor) and cut or floor)
end
local over = entries > 0 and length - removed - entries or 0
if over > 0 then
  local trimmed = redis.call('XTRIM', keys.topic, 'MINID', '~', floor, 'LIMIT', string.format('%.0f', over))
  removed, over = removed + trimmed, over - trimmed
end
-- Entries at the start have gone, or some that the cursor passed are no longer pending: begin again.
if removed > 0 or state.skipped > pending then state.cursor, state.skipped = '', 0 end
-- A node of Redis holds up to 100 entries or 4096 bytes, and a trim removes whole nodes only.
local node = bytes > 0 and math.max(1, math.min(100, math.floor(4096 * pushed / bytes))) or 100
local step = math.max(1, math.min(1000, math.floor(entries / 16)))
local swept, spilled, status = 0, 0, ''
if over <= step + node then over = 0 end
if over > 0 or (cut and before(floor, cut)) then
  swept, spilled, status = sweep(keys, live, state, over, cut, heavy, waits, math.max(2000, 2 * appended))
  removed = removed + swept
elseif state.cursor ~= stored[1] then
  redis.call('HSET', keys.state, 'cursor', state.cursor, 'skipped', state.skipped)
end
if removed > 0 then
  redis.call('HINCRBY', keys.state, 'gone', removed)
  -- Samples of entries that are gone are of no more use, except the last one: bytes are counted from it.
  -- Entries that were swept from the middle are older than `swept`, and the samples before it count what has gone.
  local old = redis.call('ZCOUNT', keys.samples, '-inf', redis.call('HGET', keys.state, 'gone')) - 1
  if old > 0 then redis.call('ZREMRANGEBYRANK', keys.samples, 0, old - 1) end
end
return removed, spilled, status
end
