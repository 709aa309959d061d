-- keys: guard records...
-- args: cut
--
-- End the transaction of a cut; return what its guard held. Once the cut is stored, its appends need not be remembered.
local held = redis.call('GET', guard)
if held == cut then
  for i = records_from, records_to do redis.call('DEL', KEYS[i]) end
end
redis.call('DEL', guard)
return held
