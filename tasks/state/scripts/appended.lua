-- keys: guard records...
-- args: cut
--
-- Refuse a cut whose results were not appended: `records` remember those that were.
if redis.call('GET', guard) ~= cut then return 0 end
for i = records_from, records_to do
  if string.sub(redis.call('GET', KEYS[i]) or '', 1, 1) ~= '=' then
    redis.call('SET', guard, 'refused', 'KEEPTTL')
    return 0
  end
end
return 1
