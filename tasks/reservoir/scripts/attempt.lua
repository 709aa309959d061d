-- A script that Redis refuses halfway takes back what it has written.
--
-- Redis keeps the writes that a script made before one of its commands was refused: because of a key's type, an ACL, or a
-- stream whose last id is the largest possible.
--
-- refused(problem) returns the reply that tells why a command was refused. attempt(act, undo) returns the result of `act`; if a
-- command in it is refused, it runs `undo` and returns the refusal.
--
-- Redis 7 raises a table, Redis 6.2 a text that begins with the line, fakeredis an object of its own.
local function why(problem)
  local text = type(problem) == 'table' and problem.err or tostring(problem)
  text = string.gsub(string.gsub(text, '^@?user_script:%s*%d+:%s*', ''), '^%-', '')
  return string.match(text, '^%u+ ') and text or 'ERR ' .. text
end

local function refused(problem)
  return redis.error_reply(why(problem))
end

local function attempt(act, undo)
  local done, answer = pcall(act)
  if done then return answer end
  pcall(undo)
  return refused(answer)
end
