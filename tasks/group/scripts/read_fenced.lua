-- keys: lease topics...
-- args: token group consumer count
--
-- Read new entries of topics, unless this consumer was taken for dead: a late read of a suspended consumer would take entries that
-- its successor then processes after later ones. Returns the server's time before the read, in microseconds, and what XREADGROUP
-- returns; nil if the consumer was taken for dead.
local own = redis.call('GET', lease)
if own and own ~= token then return false end
local clock = redis.call('TIME')
local command = {'XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS'}
for i = topics_from, topics_to do command[#command + 1] = KEYS[i] end
for _ = topics_from, topics_to do command[#command + 1] = '>' end
return {string.format('%.0f', clock[1] * 1000000 + clock[2]), redis.call(unpack(command)) or {}}
