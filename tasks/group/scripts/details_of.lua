-- details_of(values) splits the values of a letter. It returns what follows the entry's own fields, by name, and how many values are
-- the entry's own. The entry's fields may have such names, too: what follows begins at the last 'dead:topic'. Without one, all
-- values are the entry's own.
local function details_of(values)
  local details, n = {}, #values
  while n > 0 and not details['dead:topic'] do
    details[values[n - 1]] = values[n]
    n = n - 2
  end
  if not details['dead:topic'] then return {}, #values end
  return details, n
end
