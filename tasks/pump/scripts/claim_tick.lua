-- keys: beat open_claims record sign_of_life
-- args: token tick claim_ttl_ms beat_ttl_ms alive_ttl_ms preferred begins_ms max_ahead_ms first_tick is_skipped
--
-- Claim a tick for a run.
--
-- preferred      for how many ticks a newer run is preferred, 0 for none
-- begins_ms      when the tick begins, which may be `max_ahead_ms` ahead of Redis' clock
-- is_skipped     1 if nothing will be pushed for this tick
--
-- Returns what `Beat.claim` does. Behind 'taken' is the last claimed tick, behind 'claimed' how many ticks before the run's first
-- no run had claimed or counted.
-- include: attempt
local own, at = tonumber(token), tonumber(tick)
local newest = tonumber(redis.call('HGET', beat, 'newest') or '0')
if newest < own then return 'unknown' end
local mine = 'claimed:' .. token
local active = tonumber(redis.call('HGET', beat, 'active') or '0')
local last = redis.call('HGET', beat, 'last')
-- A run claims a tick once: if it has this one already, the reply to that claim was lost.
local is_again = redis.call('GET', record) == mine or (is_skipped == '1' and active == own and last == tick)
if is_again then
  local whose, gap = string.match(redis.call('HGET', beat, 'gap') or '', '^(%d+) (%d+)$')
  return 'claimed ' .. (whose == token and gap or '0')
end
if active > own then return 'relieved' end
if last and at <= tonumber(last) then return 'taken ' .. last end
local time = redis.call('TIME')
if tonumber(begins_ms) > time[1] * 1000 + time[2] / 1000 + tonumber(max_ahead_ms) then return 'ahead' end
local from = tonumber(redis.call('HGET', beat, 'from') or '0')
if newest > own and at >= from and at < from + tonumber(preferred) then return 'yield' end
return attempt(function()
  local gap = 0
  if active < own then
    local ended = redis.call('HGET', beat, 'ended')
    local counted = math.max(tonumber(last or '0'), tonumber(ended or '0'))
    gap = math.max(0, first_tick - 1 - counted)
    redis.call('HSET', beat, 'gap', string.format('%s %.0f', token, gap))
  end
  if is_skipped == '0' then
    redis.call('SET', record, mine, 'PX', claim_ttl_ms)
    redis.call('HSET', open_claims, tick, token)
    redis.call('PEXPIRE', open_claims, claim_ttl_ms)
    redis.call('SET', sign_of_life, '1', 'PX', alive_ttl_ms)
  end
  redis.call('HSET', beat, 'active', token, 'last', tick)
  redis.call('PEXPIRE', beat, beat_ttl_ms)
  return 'claimed ' .. string.format('%.0f', gap)
end, function()
  redis.call('DEL', record)
  redis.call('HDEL', open_claims, tick)
end)
