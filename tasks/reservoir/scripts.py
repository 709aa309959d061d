"""What the scripts in Redis share: a script that is refused halfway takes back what it has written.

Redis keeps the writes a script made before a command of it was refused: by the type of a key, by an ACL, or because the
last id of a stream is the largest there is.
"""

__all__ = ["ATTEMPT"]

# refused(problem) returns the reply that says why a command was refused. attempt(act, undo) returns what `act` returns; where a
# command in it is refused, `undo` runs, and the reply is the refusal.
# What is raised is a table from Redis 7 on, a text with the line in front in 6.2, and an object of its own in fakeredis.
ATTEMPT = """
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
"""
