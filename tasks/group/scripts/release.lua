-- keys: lease
-- args: tombstone ttl_ms is_given_back
--
-- Give a lease up; with `is_given_back` = 1 leave a tombstone. DEL goes first: a server that is out of memory refuses no script
-- that has written already.
redis.call('DEL', lease)
if is_given_back == '1' then redis.call('SET', lease, tombstone, 'PX', ttl_ms) end
