-- take_back() undoes an append to one topic.
--
-- Fragments of scripts that append are text, not functions: each variable that a function captures is an allocation in each call.
-- This one needs keys, ids, sampled and tally_before.
local function take_back()
  if #ids == 0 then return end
  for first = 1, #ids, 1000 do redis.call('XDEL', keys.topic, unpack(ids, first, math.min(first + 999, #ids))) end
  ids = {}
  if sampled > 0 then redis.call('ZREMRANGEBYRANK', keys.samples, -sampled, -1) end
  if tally_before then redis.call('SET', keys.tally, tally_before, 'PX', keys.ttl) else redis.call('DEL', keys.tally) end
end

