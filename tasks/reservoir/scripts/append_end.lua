-- Store the counts of a topic, and remove what it no longer keeps. Retention looks at it only now and then, as a look costs more
-- than the append.
pushed = upto
remember()
if keep ~= '' and not waits then
  local before = due
  is_full()
  if due ~= before then remember() end
end
