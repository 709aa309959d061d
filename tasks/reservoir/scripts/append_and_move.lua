-- keys: cursor
-- args: version value digest
--
-- Append entries as append.lua does, and move a cursor from the version that was read: both or neither. Replies as append.lua does;
-- nil also if the cursor has another version. Sent again, the script changes nothing.
local function append_entries()
-- include: append
end

-- include: moved_with
