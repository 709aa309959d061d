-- keys: state
-- args: writer keep now_ms counts_for_ms ttl_ms
--
-- Declare what a topic keeps, for a writer: 'inlet:<id>' or 'outlet:<group>'. Returns the writer that has declared something
-- else within `counts_for_ms`, and its declaration; nil if there is none.
local declared = redis.call('HGETALL', state)
for i = 1, #declared, 2 do
  local other = declared[i]
  if other ~= writer and (string.find(other, '^inlet:') or string.find(other, '^outlet:')) then
    local at, its_keep = string.match(declared[i + 1], '^(%d+) (.*)$')
    if not at or now_ms - at > tonumber(counts_for_ms) then redis.call('HDEL', state, other)
    elseif its_keep ~= keep then return {other, its_keep} end
  end
end
redis.call('HSET', state, writer, now_ms .. ' ' .. keep, 'keep', keep)
redis.call('PEXPIRE', state, ttl_ms)
return false
