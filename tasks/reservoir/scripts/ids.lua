-- before(a, b) and after(id) of entry ids: two decimal numbers below 2^64. Lua's numbers are exact up to 2^53 only.
local function less(a, b)
  return #a < #b or (#a == #b and a < b)
end

local function before(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)%-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)%-(%d+)$')
  if a_ms ~= b_ms then return less(a_ms, b_ms) end
  return less(a_seq, b_seq)
end

local function one_more(number)
  local head, nines = string.match('0' .. number, '^(%d-)(9*)$')
  return (string.gsub(string.sub(head, 1, -2) .. string.sub(head, -1) + 1 .. string.rep('0', #nines), '^0', ''))
end

local function after(id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  if seq == '18446744073709551615' then return one_more(ms) .. '-0' end
  return ms .. '-' .. one_more(seq)
end

-- Return the id and the bytes of a sample.
local function sample_of(member)
  return string.match(member, '^(%S+) (%d+)$')
end

-- Return the rank of the last sample for which `holds` is true, -1 if there is none.
local function last_sample(samples, holds)
  local low, high = -1, redis.call('ZCARD', samples) - 1
  while low < high do
    local middle = math.floor((low + high + 1) / 2)
    if holds(sample_of(redis.call('ZRANGE', samples, middle, middle)[1])) then low = middle else high = middle - 1 end
  end
  return low
end
