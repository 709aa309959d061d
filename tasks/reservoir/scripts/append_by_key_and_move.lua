-- keys: cursor
-- args: version value digest
--
-- Append entries to partitions as append_by_key.lua does, and move a cursor as append_and_move.lua does: both or neither.
local function append_entries()
-- include: append_by_key
end

-- include: moved_with
