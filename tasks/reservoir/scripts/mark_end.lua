-- keys: topic record
-- args:
--
-- Mark the end of a topic by a group, before the same transaction appends an entry. XINFO STREAM would read the last entry,
-- which may be large.
if redis.call('EXISTS', topic) == 1 then redis.call('XGROUP', 'CREATE', topic, record, '$') end
