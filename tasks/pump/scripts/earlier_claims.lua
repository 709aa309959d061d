-- keys: open_claims records... signs_of_life...
-- args: waits ticks... tokens...
--
-- Look at claims of other runs: each has a record, the sign of life of its run, a tick and a token. Returns how many still have to
-- be waited for (none unless `waits` = 1), and how many were taken away because their run is dead. A push for one of those is
-- refused from then on, so it cannot come out of order.
local alive, lost = 0, 0
for n = 0, ticks_to - ticks_from do
  local record, tick, token = KEYS[records_from + n], ARGV[ticks_from + n], ARGV[tokens_from + n]
  if redis.call('HGET', open_claims, tick) == token then
    if redis.call('GET', record) ~= 'claimed:' .. token then
      redis.call('HDEL', open_claims, tick)
    elseif waits == '1' and redis.call('EXISTS', KEYS[signs_of_life_from + n]) == 1 then
      alive = alive + 1
    else
      redis.call('DEL', record)
      redis.call('HDEL', open_claims, tick)
      lost = lost + 1
    end
  end
end
return {alive, lost}
