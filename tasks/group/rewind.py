"""Rewind: move a consumer group to another position of a topic, so that entries are read again or skipped."""

from dataclasses import dataclass
from typing import Any

import redis

from tasks.base.ids import id_numbers, id_time
from tasks.checks import check_group, group_start
from tasks.errors import SettingsError
from tasks.group.membership import TOMBSTONE
from tasks.reservoir.folding import streams_of
from tasks.reservoir.groups import groups_of
from tasks.reservoir.keys import lease_key, result_record, state_key, state_scope
from tasks.reservoir.lua import load
from tasks.reservoir.results import forget_results
from tasks.reservoir.topic_names import check_topic, partition_of

__all__ = ["Rewound", "rewind"]

# Entries acknowledged per script, which blocks the whole server.
_AT_ONCE = 5_000

_REWIND = load(__file__, "rewind")


@dataclass(frozen=True, slots=True)
class Rewound:
    """The result of a rewind.

    acknowledged   the number of pending entries that were acknowledged
    alive          consumers that were alive: they may still process entries that they hold in memory
    had_state      whether the group had kept state, of all its topics, which was deleted
    """

    acknowledged: int
    alive: tuple[str, ...]
    had_state: bool = False


def rewind(client: redis.Redis, topic: str, group: str, to: str, *, force: bool = False) -> Rewound:
    """Let `group` continue at `to`: it reads the entries from there on, each once more; in all partitions of a topic.

    All pending entries of the group are acknowledged, even those before `to`. State that its pipeline keeps is deleted, also what
    it has of other topics; a living consumer begins anew. Results that the group makes again are appended
    again. An interrupted rewind loses nothing, but entries that it had not acknowledged may come twice: repeat it.

    to        'beginning', 'end', an ISO 8601 time (UTC without an offset) or an entry id
    force     rewind even if consumers are alive. They continue at `to`; entries that they have read before are still
              processed, and acknowledging these has no effect
    raises    SettingsError: no such topic, group or position; or consumers are alive, and nothing was changed
    """
    start = group_start("new" if to == "end" else to, may_be_ahead=True)
    check_group(group)
    streams = streams_of(client, check_topic(topic, derived=True))
    known: Any = client  # redis-py types replies for all protocols and decodings at once
    groups = {stream: groups_of(client, stream) for stream in streams}
    streams = [stream for stream in streams if group in groups[stream]]
    if not streams:
        names = sorted({name for found in groups.values() for name in found})
        msg = f"expected a group of topic {topic!r} ({', '.join(names) or 'it has none'}), got {group!r}"
        raise SettingsError(msg)
    last_ids = {stream: known.xinfo_stream(stream)["last-generated-id"].decode() for stream in streams}
    last = max(last_ids.values(), key=id_numbers)
    if start != "$" and id_numbers(start) > id_numbers(last):
        msg = (
            f"to: expected a position in topic {topic!r}, whose last entry is {last} ({id_time(last):%Y-%m-%dT%H:%M:%S} UTC), got "
            f"{to!r}, which is after it: entries pushed until then would be skipped; use 'end' to continue with new entries"
        )
        raise SettingsError(msg)
    if not force:
        for stream in streams if len(streams) > 1 else ():  # before any partition is changed
            _expect_none_alive(stream, group, _alive(client, stream, group), 0)
    rewound = []
    for stream in streams:
        is_after = start != "$" and id_numbers(start) > id_numbers(last_ids[stream])
        rewound.append(_rewind(client, stream, group, "$" if is_after else start, force=force))
    return Rewound(
        sum(each.acknowledged for each in rewound),
        tuple(sorted({name for each in rewound for name in each.alive})),
        any(each.had_state for each in rewound),
    )


def _alive(client: Any, stream: str, group: str) -> set[str]:
    """Return the consumers of a group that hold a lease."""
    names = [each["name"].decode(errors="backslashreplace") for each in client.xinfo_consumers(stream, group)]
    leases = client.mget([lease_key(group, name) for name in names]) if names else []
    return {name for name, lease in zip(names, leases, strict=True) if lease not in (None, TOMBSTONE.encode())}


def _expect_none_alive(stream: str, group: str, alive: set[str], acknowledged: int) -> None:
    if alive:
        msg = (
            f"group {group!r} on topic {stream!r}: expected no consumer to be alive, got {', '.join(sorted(alive))}; "
            f"{acknowledged} entries were acknowledged; stop its outlet, or force the rewind"
        )
        raise SettingsError(msg)


def _rewind(client: redis.Redis, topic: str, group: str, start: str, *, force: bool) -> Rewound:
    """Rewind a group on one stream."""
    known: Any = client
    partition = partition_of(topic)
    state = state_key(state_scope(group, partition[1] if partition else None))
    script = _REWIND.on(client)
    acknowledged, alive, had_state = 0, set(), False
    pages = 1 + groups_of(client, topic)[group]["pending"] // _AT_ONCE
    while True:
        consumers = [each["name"] for each in known.xinfo_consumers(topic, group)]
        leases = [lease_key(group, name.decode(errors="backslashreplace")) for name in consumers]
        pending = known.xpending_range(topic, group, "-", "+", _AT_ONCE)
        ids = [entry["message_id"].decode() for entry in pending]
        records = [result_record(group, topic, id_) for id_ in ids]
        answer = script(
            topic=topic,
            state=state,
            leases=leases,
            records=records,
            group=group,
            start=start,
            tombstone=TOMBSTONE,
            force=int(force),
            consumers=consumers,
            ids=ids,
        )
        if answer is None:  # a consumer has joined
            continue
        done, left, names, was_kept = answer
        had_state = had_state or bool(was_kept)
        alive |= {name.decode(errors="backslashreplace") for name in names}
        if not force:
            _expect_none_alive(topic, group, alive, acknowledged)
        acknowledged += done
        pages -= 1
        # Living consumers read on during a forced rewind: so it ends after the entries that were pending at its start.
        if not left or pages <= 0:
            forget_results(client, group, topic)  # those of recently acknowledged entries, too
            return Rewound(acknowledged, tuple(sorted(alive)), had_state)
