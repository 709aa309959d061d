"""Sets a consumer group on a topic to another place: what it has read is read again, or what it has not is passed over."""

from dataclasses import dataclass
from typing import Any

import redis

from tasks.base.ids import id_numbers, id_time
from tasks.checks import check_group, check_topic, group_start
from tasks.errors import SettingsError
from tasks.group.membership import TOMBSTONE
from tasks.reservoir.groups import groups_of
from tasks.reservoir.keys import lease_key, result_record
from tasks.reservoir.results import forget_results

__all__ = ["Rewound", "rewind"]

# Acknowledged in one script: each holds up the whole server.
_AT_ONCE = 5_000

# KEYS: the topic, the leases of its consumers, the records of the results of some pending entries. ARGV: group, the id after
# which it goes on, the tombstone, 1 to go on though consumers are alive, how many consumers, their names, the ids.
# Returns how many were acknowledged, how many are still pending, and the names of the consumers alive; nil if a consumer has
# come that is not among those named.
#
# All that is pending is acknowledged, or it would come twice: redelivered, and read again. With it go the records of its
# results, so that those are made again. The id is set with every page, so that an interrupted rewind loses nothing:
# what was acknowledged is read again, what was not is redelivered.
_REWIND = """
local topic, group, consumers = KEYS[1], ARGV[1], tonumber(ARGV[5])
local named = {}
for i = 1, consumers do named[ARGV[5 + i]] = KEYS[1 + i] end
local alive = {}
for _, reply in ipairs(redis.call('XINFO', 'CONSUMERS', topic, group)) do
  for i = 1, #reply, 2 do
    if reply[i] == 'name' then
      if not named[reply[i + 1]] then return false end
      local lease = redis.call('GET', named[reply[i + 1]])
      if lease and lease ~= ARGV[3] then alive[#alive + 1] = reply[i + 1] end
    end
  end
end
if #alive > 0 and ARGV[4] ~= '1' then return {0, 0, alive} end
local acknowledged = 0
for i = 1 + consumers, #ARGV - 5 do
  acknowledged = acknowledged + redis.call('XACK', topic, group, ARGV[5 + i])
  redis.call('UNLINK', KEYS[1 + i])
end
redis.call('XGROUP', 'SETID', topic, group, ARGV[2])
return {acknowledged, redis.call('XPENDING', topic, group)[1], alive}
"""


@dataclass(frozen=True, slots=True)
class Rewound:
    """What came of a rewind.

    acknowledged   entries that were pending and are not any more
    alive          consumers that were alive all the same: what they hold in memory may be processed besides
    """

    acknowledged: int
    alive: tuple[str, ...]


def rewind(client: redis.Redis, topic: str, group: str, to: str, *, force: bool = False) -> Rewound:
    """Let `group` go on from `to` on: it reads what is there and what follows, each entry once more.

    All that is pending in the group is acknowledged, also where it is before `to`. Results that the group makes again
    are appended again. One that was interrupted has lost nothing, but what it had not acknowledged may come twice: do it
    again.

    to        'beginning', 'end', an ISO 8601 time (UTC unless it says otherwise) or an entry id
    force     also while consumers are alive. They go on from there; what they have read before they process all the
              same, and its acknowledgement counts for nothing
    raises    SettingsError: no such topic, group or place; consumers are alive, and nothing was changed
    """
    start = group_start("new" if to == "end" else to)
    check_group(group)
    known: Any = client  # redis-py types replies for all protocols and decodings at once
    groups = groups_of(client, check_topic(topic, derived=True))
    if group not in groups:
        msg = f"expected a group of topic {topic!r} ({', '.join(sorted(groups)) or 'it has none'}), got {group!r}"
        raise SettingsError(msg)
    last = known.xinfo_stream(topic)["last-generated-id"].decode()
    if start != "$" and id_numbers(start) > id_numbers(last):
        msg = (
            f"to: expected a place in topic {topic!r}, whose last entry is {last} ({id_time(last):%Y-%m-%dT%H:%M:%S} UTC), got {to!r}, "
            "which lies behind it: whatever is pushed before would be passed over; write 'end' for what comes from now on"
        )
        raise SettingsError(msg)
    script: Any = client.register_script(_REWIND)
    acknowledged, alive = 0, set()
    pages = 1 + groups[group]["pending"] // _AT_ONCE
    while True:
        consumers = [each["name"] for each in known.xinfo_consumers(topic, group)]
        leases = [lease_key(group, name.decode(errors="backslashreplace")) for name in consumers]
        pending = known.xpending_range(topic, group, "-", "+", _AT_ONCE)
        ids = [entry["message_id"].decode() for entry in pending]
        records = [result_record(group, topic, id_) for id_ in ids]
        answer = script(
            keys=[topic, *leases, *records],
            args=[group, start, TOMBSTONE, int(force), len(consumers), *consumers, *ids],
        )
        if answer is None:  # a consumer has come
            continue
        done, left, names = answer
        alive |= {name.decode(errors="backslashreplace") for name in names}
        if alive and not force:
            msg = (
                f"group {group!r} on topic {topic!r}: expected no consumer to be alive, got {', '.join(sorted(alive))}; "
                f"{acknowledged} entries were acknowledged; stop its outlet, or force it"
            )
            raise SettingsError(msg)
        acknowledged += done
        pages -= 1
        # Consumers that are alive read on meanwhile: what was pending at the start ends it.
        if not left or pages <= 0:
            forget_results(client, group, topic)  # of what was acknowledged lately, too
            return Rewound(acknowledged, tuple(sorted(alive)))
