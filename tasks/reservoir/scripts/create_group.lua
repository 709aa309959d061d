-- keys: topic records...
-- args: group start
--
-- Create a group, and delete the records of results that a deleted group of this name has left.
local made = redis.pcall('XGROUP', 'CREATE', topic, group, start, 'MKSTREAM')
if made.err then return made end
for i = records_from, records_to do redis.call('UNLINK', KEYS[i]) end
return made
