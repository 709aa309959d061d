-- keys: letters
-- args: command start stop count max_bytes with_tracebacks
--
-- Return up to `count` letters, as XRANGE or XREVRANGE (`command`) walks them, and none after `max_bytes`: of each its id, and what
-- follows the entry's own fields. Those may be large and stay in Redis.
-- include: details_of
local found, bytes = {}, 0
for _ = 1, count do
  local letter = redis.call(command, letters, start, stop, 'COUNT', 1)[1]
  if not letter then break end
  local details = details_of(letter[2])
  found[#found + 1] = {letter[1], details['dead:id'] or '', details['dead:node'] or '', details['dead:exception'] or '',
    details['dead:retries'] or '', details['dead:deliveries'] or '', details['dead:attempts'] or '', details['dead:combines'] or '',
    with_tracebacks == '1' and details['dead:traceback'] or ''}
  start = '(' .. letter[1]
  for _, value in ipairs(letter[2]) do bytes = bytes + #value end
  if bytes > tonumber(max_bytes) then break end
end
return found
