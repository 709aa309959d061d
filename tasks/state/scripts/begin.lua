-- keys: lease state guard topics...
-- args: token name version cut ttl_ms group last_read... done...
--
-- Begin the transaction of a cut: `guard` holds the cut's id if it may be stored, and the reason otherwise, which is also
-- returned. All scripts that follow in the transaction check the guard as if it were a lease. The transaction has created it with
-- another value, so that nothing follows if this script is refused.
--
-- The commands that write the state and acknowledge are tried without an effect: refused later, they would leave one without the
-- other.
--
-- `last_read` holds the id up to which the consumer has read each topic. If the group has not read as far, Redis has gone back to a
-- time before the read: the entries are not delivered, or not even there, and must not be part of the state. The group may have read
-- on since then, so that each entry of the cut must be pending, too: `done` holds the ids of each topic; it is quick if
-- they are in order.
-- include: ids
-- include: groups_of
local function are_pending(topic, ids)
  local page, n, count = {}, 0, 50
  for id in string.gmatch(ids, '%S+') do
    n = n + 1
    while page[n] and page[n][1] ~= id do n = n + 1 end
    if not page[n] then
      -- At the end of a page, or at an id out of order, such as that of an entry which was claimed later.
      count = math.min(2 * count, 1000)
      page, n = redis.call('XPENDING', topic, group, id, '+', count, name), 1
      if not page[1] or page[1][1] ~= id then return false end
    end
  end
  return true
end
local why = cut
local own = redis.call('GET', lease)
local known = redis.call('HMGET', state, 'owner', 'version', 'cut')
if own and own ~= token then
  why = 'lease'
elseif known[1] == name and known[3] == cut then
  why = 'stored'
elseif known[1] ~= name or known[2] ~= version then
  why = 'other ' .. (known[2] or 'none')
else
  for i = topics_from, topics_to do
    if redis.call('EXISTS', KEYS[i]) == 1 then
      for _, each in ipairs(groups_of(KEYS[i])) do
        if each.name == group then
          redis.call('XPENDING', KEYS[i], group, '0-0', '0-0', 1)
          redis.call('XACK', KEYS[i], group, '0-0')
          if before(each['last-delivered-id'], ARGV[last_read_from + i - topics_from]) then why = 'unread' end
          if not are_pending(KEYS[i], ARGV[done_from + i - topics_from]) then why = 'unread' end
        end
      end
    end
  end
  redis.call('HDEL', state, '')
  redis.call('HSET', state, 'owner', name)
end
redis.call('SET', guard, why, 'PX', ttl_ms)
return why
