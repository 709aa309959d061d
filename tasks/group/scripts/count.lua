-- keys: lease topic
-- args: token group consumer deliveries...
--
-- Set how often entries that are pending for `consumer` were delivered; `deliveries` holds id, count, ... Returns 1; -1 if the
-- consumer was taken for dead.
local own = redis.call('GET', lease)
if own and own ~= token then return -1 end
for i = deliveries_from, deliveries_to, 2 do
  redis.call('XCLAIM', topic, group, consumer, 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
end
return 1
