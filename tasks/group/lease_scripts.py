"""Lua scripts that renew a consumer's lease, and move, count, acknowledge and dead-letter entries while it is held.

Scripts that change entries check the lease in the same step: a consumer that was taken for dead changes nothing.
"""

from tasks.group.dead_letter_bounds import BOUNDS
from tasks.reservoir.scripts import ATTEMPT

__all__ = ["ACK", "COUNT", "DEAD_LETTER", "LAPSE", "MOVE", "RELEASE", "RENEW", "RETIRE"]

# A lease that exists and is not ours is a tombstone: our entries were claimed. A lease that does not exist has expired
# unnoticed: no entry was claimed, and this consumer may continue. (A consumer that was away for so long that a tombstone may have
# expired counts as dead: see `Membership.renew`.)

# KEYS: the lease. ARGV: token, TTL in ms. Returns 1 if the lease was held, 0 if it had expired and is ours again,
# -1 if we were taken for dead. PEXPIRE works on a server that is out of memory, too.
RENEW = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return -1 end
if holder then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 0
"""

# KEYS: the lease. ARGV: the tombstone and its TTL, 1 to set it. DEL comes first: a server that is out of memory does not
# refuse a script that has already written.
RELEASE = """
redis.call('DEL', KEYS[1])
if ARGV[3] == '1' then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
"""

# KEYS: the peer's lease. ARGV: the value it holds, the peer's own TTL in ms. Deletes a lease with a TTL that its owner
# never sets.
LAPSE = """
local left = redis.call('PTTL', KEYS[1])
if redis.call('GET', KEYS[1]) ~= ARGV[1] or (left >= 0 and left <= tonumber(ARGV[2])) then return 0 end
return redis.call('DEL', KEYS[1])
"""

# KEYS: own lease, the other consumer's lease, the topic. ARGV: own token, group, the new owner, the present owner, how many,
# the tombstone and its TTL. Returns the ids that were moved; nil if we were taken for dead.
MOVE = """
local own = redis.call('GET', KEYS[1])
if own and own ~= ARGV[1] then return false end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[6] then return {} end
local ids = {}
for _, entry in ipairs(redis.call('XPENDING', KEYS[3], ARGV[2], '-', '+', ARGV[5], ARGV[4])) do
  redis.call('XCLAIM', KEYS[3], ARGV[2], ARGV[3], 0, entry[1], 'JUSTID') -- counts no delivery
  ids[#ids + 1] = entry[1]
end
if #ids > 0 then redis.call('SET', KEYS[2], ARGV[6], 'PX', ARGV[7]) end
return ids
"""

# KEYS: own lease, the topic. ARGV: own token, group, own name, then id, delivery count, id, ... Returns 1; -1 if we were
# taken for dead.
COUNT = """
local own = redis.call('GET', KEYS[1])
if own and own ~= ARGV[1] then return -1 end
for i = 4, #ARGV, 2 do
  redis.call('XCLAIM', KEYS[2], ARGV[2], ARGV[3], 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
end
return 1
"""

# KEYS: the peer's lease, the topic. ARGV: group, the peer's name, the tombstone.
# XGROUP DELCONSUMER discards pending entries, so the peer must have none. When Redis 6.2 is out of memory, it allows the command
# only after another write, for which an XACK of no entry is enough.
RETIRE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[3] then return 0 end
if #redis.call('XPENDING', KEYS[2], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end
redis.call('XACK', KEYS[2], ARGV[1], '0-0')
redis.call('XGROUP', 'DELCONSUMER', KEYS[2], ARGV[1], ARGV[2])
return 1
"""

# KEYS: own lease, the topics, the records of results that are not needed after this. ARGV: own token, group, the TTL of
# these records, the number of topics; for each topic 1 if it is a retry topic, and its ids in one text, which redis-py sends in
# half the time. Returns the number of acknowledged entries; -1 if we were taken for dead. Entries of a retry topic are deleted:
# no other group reads them. All topics in one script: otherwise a join would pair entries left of one topic with later ones.
ACK = """
local own = redis.call('GET', KEYS[1])
if own and own ~= ARGV[1] then return -1 end
local topics, acknowledged = tonumber(ARGV[4]), 0
for i = 2 + topics, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
for n = 1, topics do
  local topic, ids, count = KEYS[1 + n], {}, 0
  local function done()
    acknowledged = acknowledged + redis.call('XACK', topic, ARGV[2], unpack(ids))
    if ARGV[3 + 2 * n] == '1' then redis.call('XDEL', topic, unpack(ids)) end
    ids, count = {}, 0
  end
  for id in string.gmatch(ARGV[4 + 2 * n], '%S+') do
    count = count + 1
    ids[count] = id
    if count == 1000 then done() end
  end
  if count > 0 then done() end
end
return acknowledged
"""

# KEYS: own lease, the topic, the dead-letter topic, the record of results, the letter counts, the spill counts of the topic, the
# state of the topic. ARGV: own token, group, id, the limits of the letters, the TTL of the record, the topic that the entry was
# pushed to, 1 if the entry must be pending, field, text, ...
# An entry that is not pending, because another client acknowledged it or deleted its consumer or group, counts as delivered once.
# The letter begins with the entry's own fields, untouched; 'dead:topic' is the first of the fields about it. The fields
# 'retry:id' and 'retry:times' at the end of a replayed entry are removed: see `tasks.group.dead_letters`.
# Lua's unpack() takes about 8,000 values: of an entry with more fields, which Sluice never pushes, the letter has none of them.
DEAD_LETTER = (
    ATTEMPT
    + BOUNDS
    + """
local own = redis.call('GET', KEYS[1])
if own and own ~= ARGV[1] then return -1 end
local pending = redis.pcall('XPENDING', KEYS[2], ARGV[2], ARGV[3], ARGV[3], 1)
if pending.err and not string.find(tostring(pending.err), 'NOGROUP', 1, true) then return pending end
local deliveries = pending[1] and tostring(pending[1][4])
if ARGV[7] == '1' and not deliveries then return 0 end
local entry = redis.call('XRANGE', KEYS[2], ARGV[3], ARGV[3])[1]
local values = entry and #entry[2] < 7900 and entry[2] or {}
local id, retries, n = ARGV[3], nil, #values
if ARGV[6] ~= KEYS[2] and values[n - 3] == 'retry:id' and string.match(values[n - 2], '^%d+%-%d+$')
    and string.match(values[n], '^%d+$') then
  id, retries = values[n - 2], values[n]
  for i = n - 3, n do values[i] = nil end
end
local about = {'dead:topic', ARGV[6], 'dead:id', id}
for i = 8, #ARGV do about[#about + 1] = ARGV[i] end
about[#about + 1] = 'dead:deliveries'
about[#about + 1] = deliveries or '1'
if retries then
  about[#about + 1] = 'dead:retries'
  about[#about + 1] = retries
end
for _, value in ipairs(about) do values[#values + 1] = value end
local letters, bytes, least = string.match(ARGV[4], '^(%d+) (%d+) (%d+)$')
local keep = redis.pcall('HGET', KEYS[7], 'keep') -- an error if another program has stored another type there
local topic_bytes = type(keep) == 'string' and string.match(keep, '^%d+ %d+ (%d+)') or 0
local keys = {letters = KEYS[3], counts = KEYS[5], spilled = KEYS[6], ttl = 2592000000}
local added = {}
return attempt(function()
  add_letter(keys, ARGV[2], values, added, {max_letters = tonumber(letters), max_bytes = tonumber(bytes),
    min_bytes = tonumber(least), topic_bytes = tonumber(topic_bytes)})
  redis.call('PEXPIRE', KEYS[4], ARGV[5])
  redis.call('XACK', KEYS[2], ARGV[2], ARGV[3])
  if ARGV[6] ~= KEYS[2] then redis.call('XDEL', KEYS[2], ARGV[3]) end
  drop_oldest(keys, added)
  return 1
end, function() take_back(keys, ARGV[2], added) end)
"""
)
