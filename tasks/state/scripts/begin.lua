-- keys: lease state guard
-- args: token name version cut ttl_ms
--
-- Begin the transaction of a cut: `guard` holds the cut's id if it may be stored, and the reason otherwise, which is also
-- returned. All scripts that follow in the transaction check the guard as if it were a lease.
local why = cut
local own = redis.call('GET', lease)
local known = redis.call('HMGET', state, 'owner', 'version', 'cut')
if own and own ~= token then
  why = 'lease'
elseif known[1] == name and known[3] == cut then
  why = 'stored'
elseif known[1] ~= name or known[2] ~= version then
  why = 'other ' .. (known[2] or 'none')
end
redis.call('SET', guard, why, 'PX', ttl_ms)
return why
