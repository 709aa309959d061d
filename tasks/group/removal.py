"""Removes groups, topics and inlets from Redis with every key that belongs to them, and no other key.

Keys of a topic: the stream; the state, index, groups, spilled counts, tally and letter counts beside it; all that its
groups keep; the beats of its inlets; its partitioning, and the same keys of each partition. Keys of a group on a topic: its dead letters, its retry topic, its records of
results, and a field in each of three hashes beside the topic. A tombstone and kept state name a group and no topic, so they go
with the last topic of their group.
"""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import redis

from tasks.base.shell import sluice_command
from tasks.checks import is_group
from tasks.errors import SettingsError
from tasks.group.membership import TOMBSTONE
from tasks.reservoir.cursors import CursorStore, cursors
from tasks.reservoir.folding import streams_of
from tasks.reservoir.groups import groups_of, unless_gone
from tasks.reservoir.keys import (
    alive_key,
    beat_key,
    cursor_key,
    dead_topic,
    derived_from,
    inlet_of,
    lease_key,
    letter_counts,
    matching,
    once_record,
    partitions_key,
    result_of,
    retry_topic,
    retrying_key,
    state_key,
    tick_record,
    topic_keys,
)
from tasks.reservoir.lua import load
from tasks.reservoir.topic_names import check_topic, partition_of
from tasks.reservoir.unreadable import named

__all__ = [
    "ConsumersAliveError",
    "Kept",
    "drop_group",
    "drop_inlet",
    "drop_topic",
    "has_keys",
    "inlets_of",
    "kept_by_group",
    "refuse_readers_of_letters",
    "running_inlets",
]

_AT_ONCE = 1_000  # keys deleted by one command
_LATELY = 5.0  # seconds; an inlet runs if its last tick is younger than this, or than two ticks

_DROP_GROUP = load(__file__, "drop_group")


class ConsumersAliveError(SettingsError):
    """A group was not dropped because consumers hold leases in it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a group keeps of a topic besides its position: entries pending, dead letters, retries, records of results."""

    consumers: int
    pending: int
    letters: int
    retries: int
    records: int


def kept_by_group(client: redis.Redis, topic: str, group: str) -> Kept:
    """Return how much `group` keeps of `topic`, in all partitions.

    raises    SettingsError: neither the group nor anything that it kept exists; UnreadableTopicError
    """
    streams = streams_of(client, check_topic(topic, derived=True))
    found = [_kept(client, stream, group) for stream in streams]
    if not any(is_there for _, is_there in found):
        groups = (
            ", ".join(map(repr, sorted({name for stream in streams for name in groups_of(client, stream)}))) or "none"
        )
        msg = f"expected a group of topic {topic!r}, which has {groups}, got {group!r}"
        raise SettingsError(msg)
    kept = [each for each, _ in found]
    return Kept(
        consumers=max(each.consumers for each in kept),
        pending=sum(each.pending for each in kept),
        letters=sum(each.letters for each in kept),
        retries=sum(each.retries for each in kept),
        records=sum(each.records for each in kept),
    )


def _kept(client: redis.Redis, stream: str, group: str) -> tuple[Kept, bool]:
    """Return how much a group keeps of a stream, and whether the group exists there or has left anything."""
    known: Any = client
    with named(client, stream):
        found = groups_of(client, stream).get(group)
        records = [key for key in _matching(client, stream, group) if _is_record(key)]
        is_ours = is_group(group)  # nothing is stored for a group that another program named otherwise
        kept = Kept(
            consumers=found["consumers"] if found else 0,
            pending=found["pending"] if found else 0,
            letters=known.xlen(dead_topic(stream, group)) if is_ours else 0,
            retries=known.xlen(retry_topic(stream, group)) if is_ours else 0,
            records=len(records),
        )
        is_there = bool(found) or any((kept.letters, kept.retries, kept.records)) or _has_field(known, stream, group)
    return kept, is_there


def drop_group(client: redis.Redis, topic: str, group: str) -> None:
    """Delete `group` on `topic`, in all partitions, with everything that it keeps there. Other groups and topics stay as they are.

    Also deletes what a group that no longer exists has left. An interrupted call can be repeated.

    raises    SettingsError: a consumer of the group is alive, or another group reads its dead letters; nothing was changed
    """
    streams = streams_of(client, check_topic(topic, derived=True))
    for stream in streams:
        with named(client, stream):
            refuse_readers_of_letters(client, stream, group)
            _refuse_the_living(stream, group, _alive(client, stream, group))
    for stream in streams:
        with named(client, stream):
            mine = list(_matching(client, stream, group))
            _drop_group(client, stream, group, [key for key in mine if not _is_record(key)])
        if group not in groups_of(
            client, stream
        ):  # one that was created anew since has deleted these records, or uses them
            _unlink(client, filter(_is_record, mine))
    _forget_tombstones(client, [group])


def drop_topic(client: redis.Redis, topic: str) -> None:
    """Delete `topic` with its groups, their dead letters, and everything beside it. Other topics stay as they are.

    Also deletes what a topic that no longer exists has left. An interrupted call can be repeated. Does not look for
    inlets, see `running_inlets`: one that runs creates the topic again.

    raises    SettingsError: a consumer is alive on the topic, or on dead letters of it; nothing was changed
    """
    check_topic(topic)
    with named(client, topic):
        own = [key.decode() for key in _matching(client, topic)]
        groups = [(stream, group) for stream in own if _is_of(stream, topic) for group in groups_of(client, stream)]
        for stream, group in groups:
            _refuse_the_living(stream, group, _alive(client, stream, group))
        readers = {group for _, group in groups} | _readers(client, topic, own)
        for stream, group in groups:
            _drop_group(client, stream, group, ())
        beats = [key for id_ in _beats(client, topic) for key in _keys_of_beat(client, id_)]
        beats += [cursor_key(id_).encode() for id_ in _cursors(client, topic)]
        own.sort(key=topic.__eq__)  # the stream last, so that an interrupted call can be repeated
        _unlink(client, [*beats, *own])
        _forget_tombstones(client, readers)


def drop_inlet(client: redis.Redis, topic: str, inlet: str) -> None:
    """Delete the beats and cursors of `inlet` on `topic` and what it declared there. The topic and its other inlets stay."""
    known: Any = client
    _unlink(client, [cursor_key(id_) for id_ in _cursors(client, topic, inlet)])
    for id_ in _beats(client, topic, inlet):
        _unlink(client, list(_keys_of_beat(client, id_)))
        known.hdel(topic_keys(topic).state, f"inlet:{id_}")


def refuse_readers_of_letters(client: redis.Redis, topic: str, group: str) -> None:
    """Refuse to drop a group of which another group reads the dead letters.

    raises    SettingsError
    """
    letters = dead_topic(topic, group)
    readers = sorted(groups_of(client, letters)) if is_group(group) else []
    if readers:
        msg = (
            f"group {group!r} on topic {topic!r}: expected its dead letters to have no readers, got {', '.join(map(repr, readers))}; "
            f"the group was not dropped; drop those first: `{sluice_command('groups drop', letters, readers[0])}`"
        )
        raise SettingsError(msg)


def has_keys(client: redis.Redis, topic: str) -> bool:
    """Return whether a topic exists, or any key that belongs to it."""
    return next(_matching(client, topic), None) is not None


def inlets_of(client: redis.Redis, topic: str) -> list[str]:
    """Return the inlets of which beats on `topic` are stored."""
    return sorted({id_.rpartition(":")[0] for id_ in _beats(client, topic)})


def running_inlets(client: redis.Redis, topic: str, *, now: float | None = None) -> list[str]:
    """Return the inlets that pump into `topic`, by the ticks that they claimed.

    now       seconds since the epoch
    """
    known: Any = client
    now = time.time() if now is None else now
    found = set()
    for id_ in _beats(client, topic):
        last, called = known.hmget(beat_key(id_), "last", "called")
        every = 0.0
        with suppress(KeyError, TypeError, ValueError):
            every = float(json.loads(called)["every"])
        is_young = last is not None and every and int(last) * every > now - max(_LATELY, 2 * every)
        if is_young or next(client.scan_iter(match=alive_key(beat_key(id_), "*"), count=1000), None):
            found.add(id_.rpartition(":")[0])
    return sorted(found)


def _drop_group(client: redis.Redis, topic: str, group: str, keys: Iterable[bytes]) -> None:
    """Delete `keys` and the group in one script, unless one of its consumers is alive."""
    beside, doomed = topic_keys(topic), list(keys)
    script, alive = _DROP_GROUP.on(client), None
    while alive is None:  # a consumer may join between the look at the group and the script
        name, consumers = _consumers(client, topic, group)
        alive = script(
            topic=topic,
            groups=beside.groups,
            spilled=beside.spilled,
            letters=letter_counts(topic),
            leases=_leases(group, consumers),
            doomed=doomed,
            group=name,
            tombstone=TOMBSTONE,
            consumers=consumers,
        )
    _refuse_the_living(topic, group, alive)


def _consumers(client: Any, topic: str, group: str) -> tuple[str | bytes, list[bytes]]:
    """Return a group's name as Redis has it, and the names of its consumers; none if there is no such group."""
    known = groups_of(client, topic).get(group)
    if known is None:
        return group, []
    with unless_gone():
        return known["name"], [consumer["name"] for consumer in client.xinfo_consumers(topic, known["name"])]
    return group, []


def _leases(group: str, consumers: Iterable[bytes]) -> list[str]:
    """Return the lease keys of consumers; one whose name is not UTF-8 is not Sluice's, and its lease does not exist."""
    return [lease_key(group, name.decode(errors="backslashreplace")) for name in consumers]


def _alive(client: redis.Redis, topic: str, group: str) -> list[bytes]:
    """Return the consumers of a group that hold a lease."""
    known: Any = client
    _, names = _consumers(client, topic, group)
    leases = known.mget(_leases(group, names)) if names else []
    return [name for name, lease in zip(names, leases, strict=True) if lease not in (None, TOMBSTONE.encode())]


def _refuse_the_living(topic: str, group: str, alive: Iterable[bytes]) -> None:
    if alive:
        names = ", ".join(name.decode(errors="backslashreplace") for name in alive)
        msg = (
            f"group {group!r} on topic {topic!r}: expected no consumer to be alive, got {names}; nothing was dropped; stop its "
            "outlet (`sluice stop`), or wait until the lease of a killed one has run out"
        )
        raise ConsumersAliveError(msg)


def _matching(client: redis.Redis, topic: str, group: str | None = None) -> Iterator[bytes]:
    """Yield the keys that belong to a topic, or only those that belong to a group on it."""
    prefixes = [
        key.removesuffix(topic)
        for key in (*topic_keys(topic)[1:], letter_counts(topic), retrying_key(topic), partitions_key(topic))
    ]
    for key in client.scan_iter(match=f"*{matching(topic)}*", count=1000):
        with suppress(UnicodeDecodeError):
            if _belongs(key.decode(), topic, group, prefixes):
                yield key


def _belongs(key: str, topic: str, group: str | None, prefixes: Iterable[str]) -> bool:
    if record := result_of(key):
        return _is_of(record[1], topic, group) or record[:2] == (group, topic)
    beside = (key.removeprefix(prefix) for prefix in prefixes if key.startswith(prefix))
    return any(_is_of(name, topic, group) for name in (key, *beside))


def _is_of(stream: str, topic: str, group: str | None = None) -> bool:
    """Return whether a stream belongs to a topic, or to a group on it: itself, partitions, dead letters and retries, and theirs."""
    last = None
    while stream != topic:
        if derived := derived_from(stream):
            stream, _, last = derived
        elif partition := partition_of(stream):
            stream, _ = partition
        else:
            return False
    return group is None or group == last


def _readers(client: Any, topic: str, keys: Iterable[str]) -> set[str]:
    """Return the groups that the keys of a topic name, also those that were deleted."""
    found = {name.decode(errors="replace") for name in client.hkeys(topic_keys(topic).groups)}
    for key in keys:
        if derived := derived_from(key):
            found.add(derived[2])
        elif record := result_of(key):
            found.add(record[0])
    return found


def _unlink(client: redis.Redis, keys: Iterable[bytes | str]) -> None:
    left = iter(keys)
    while some := list(islice(left, _AT_ONCE)):
        client.unlink(*some)


def _is_record(key: bytes) -> bool:
    return result_of(key.decode(errors="replace")) is not None


def _has_field(client: Any, topic: str, group: str) -> bool:
    beside = topic_keys(topic)
    hashes = beside.groups, beside.spilled, letter_counts(topic)
    fields = (group, f"dead:{group}", f"done:{group}", f"failed:{group}")
    return any(client.hexists(key, field) for key in hashes for field in fields)


def _beats(client: redis.Redis, topic: str, inlet: str | None = None) -> list[str]:
    """Return the ids, '<inlet>:<digest>', of the beats that were kept on a topic: those that it declares, and those that name it."""
    known: Any = client
    names = [name.decode() for name in known.hkeys(topic_keys(topic).state) if name.startswith(b"inlet:")]
    found = {name.removeprefix("inlet:") for name in names}
    for key in client.scan_iter(match=beat_key("*"), count=1000, _type="HASH"):
        id_ = inlet_of(key.decode(errors="replace"))
        if id_.count(":") == 1:
            with suppress(TypeError, ValueError, AttributeError):
                if json.loads(known.hget(key, "called")).get("topic") == topic:
                    found.add(id_)
    return sorted(id_ for id_ in found if inlet in (None, id_.rpartition(":")[0]))


def _cursors(client: redis.Redis, topic: str, inlet: str = "") -> list[str]:
    """Return the ids, '<inlet>:<digest>', of the cursors of inlets that push to a topic."""
    return [id_ for id_ in cursors(client, inlet) if CursorStore(client, id_).read().topic == topic]


def _keys_of_beat(client: redis.Redis, id_: str) -> Iterator[bytes]:
    beat = beat_key(id_)
    yield beat.encode()
    for pattern in (tick_record(beat, "*"), once_record(f"{beat}:*")):
        yield from client.scan_iter(match=pattern, count=1000)


def _forget_tombstones(client: redis.Redis, groups: Iterable[str]) -> None:
    """Delete the tombstones and the kept state of those groups that read no topic any more."""
    left = set(groups)
    for stream in client.scan_iter(_type="STREAM", count=1000) if left else ():
        left -= groups_of(client, stream).keys()
    for group in left:
        of_partitions = client.scan_iter(match=state_key(f"{matching(group)}:{{*}}"), count=1000)
        _unlink(client, [state_key(group), *of_partitions])
        for lease in client.scan_iter(match=lease_key(matching(group), "*"), count=1000):
            if client.get(lease) == TOMBSTONE.encode():
                client.unlink(lease)
