"""The names of all Redis keys that Sluice makes, and the one place where they are built.

Scripts get these names as KEYS and build none.

| Key                               | Type   | Written by                                 | TTL         | Removed by                                    |
|-----------------------------------|--------|--------------------------------------------|-------------|-----------------------------------------------|
| <topic>                           | stream | Reservoir.append, other programs           | none        | entries: retention (`keep`)                   |
| <topic>:dead:<group>              | stream | Membership.dead_letter                     | none        | entries: DeadLetterLimits, replay, discard        |
| <topic>:retry:<group>             | stream | DeadLetters.replay                         | none        | entries: their acknowledgement                |
| sluice:topic:<topic>              | hash   | Reservoir.append, Retention                | 30 days     | its TTL                                       |
| sluice:index:<topic>              | zset   | Reservoir.append, Retention                | 30 days     | its TTL; an append that finds it outdated     |
| sluice:groups:<topic>             | hash   | mark_seen, retention                       | 30 days     | its TTL                                       |
| sluice:spilled:<topic>            | hash   | retention, Membership                      | 30 days     | its TTL                                       |
| sluice:tally:<topic>              | string | Reservoir.append                           | 30 days     | its TTL                                       |
| sluice:letters:<topic>            | hash   | Membership.dead_letter, DeadLetters        | 30 days     | its TTL                                       |
| sluice:retrying:<topic>           | hash   | Reader, of calls that are tried again      | 30 s        | its TTL; fields: the end of their run         |
| sluice:partitions:<topic>         | hash   | `declare`, appends by key                  | none        | drop_topic                                    |
| sluice:lease:<group>:<consumer>   | string | Membership                                 | lease_ttl   | Membership.release                            |
| sluice:output:<group>:<topic>:<id>| hash   | results (`into`, `.to_redis`), Attempts    | 30 days     | a minute after the acknowledgement of <id>    |
| sluice:state:<scope>              | hash   | Ownership, StateStore                      | none        | drop_group, removal, rewind                   |
| sluice:cut:<scope>                | string | StateStore                                 | 1 minute    | the end of its transaction                    |
| sluice:members:<group>            | zset   | Members                                    | lease_ttl   | its TTL; members: the end of their run        |
| sluice:push:<uuid>                | string | Reservoir.push_many, `.to_redis`           | 10 minutes  | its TTL                                       |
| sluice:once:<run>                 | string | one-shot runs of inlets                    | 1 day       | its TTL                                       |
| sluice:replay:<uuid>              | string | DeadLetters.replay, DeadLetters.discard    | 10 minutes  | its TTL                                       |
| sluice:cursor:<inlet>             | hash   | Beat.push, CursorStore                     | none        | `sluice cursor --delete`, removal             |
| sluice:beat:<inlet>               | hash   | Beat, Neighbours                           | 7 days      | its TTL                                       |
| sluice:beat:<inlet>:open          | hash   | Beat.claim                                 | 1 day       | Beat.done, field by field                     |
| sluice:beat:<inlet>:<tick>        | string | Beat.claim, Beat.push                      | 1 day       | 10 minutes after the push; Beat.done          |
| sluice:beat:<inlet>:alive:<token> | string | Beat.claim, Beat.live                      | 5 s         | its TTL                                       |
| sluice:limit:<limit>              | list   | CallGate.take                              | the period  | its TTL                                       |
| sluice:limit:<limit>:pause        | string | CallGate.pause                             | the pause   | its TTL                                       |
| sluice:levels                     | stream | History.add                                | 30 days     | entries: a cap of 2,016                       |
| sluice:poll:<server>:runs         | zset   | SharedPoll                                 | 2 minutes   | its TTL; members: the end of their run        |
| sluice:poll:<server>:seen         | hash   | SharedPoll                                 | 2 minutes   | its TTL; fields: the end of their run         |
| sluice:poll:<server>:lease        | string | SharedPoll                                 | 8 s         | its TTL; the end of its holder                |
| sluice:poll:<server>:inlets       | zset   | SharedPoll                                 | 7 days      | its TTL; members: after 7 days without a run  |

`<scope>` is a group, or `<group>:{<n>}` for partition n of its topics. A lease that was claimed by another consumer holds a
tombstone, which lives for a day. `<inlet>` is the inlet's name and a digest of its parameters. `sluice:output:...` exists for retry
topics as well, under their own name.

No two keys collide: groups, consumers, entry ids, uuids and ticks have no ':', and an inlet has one. A topic's name, which may have
any number, is the only such part of its key. So each key can be read in one way only. `tasks.reservoir.topic_names` refuses topics
that start with `sluice:` or end as the streams of dead letters and retries do. Groups of other programs may be named with ':'; nothing
is stored for them under a key of their own.

Partition n of a topic is the stream `<topic>:{<n>}`, a topic with all the keys of one. They hold its whole name, so those of a
partition share the hash tag `{<n>}`, and so do partitions n of topics that are joined. One script appends to all partitions of a
topic, so a partitioned topic needs one Redis; a cluster refuses the script.

Records of appends (`sluice:push:` and so on) belong to no topic. A cluster would need them in the slot of a partition, as
`sluice:push:<uuid>:{<n>}`; nothing is built for clusters yet.
"""

import re
import uuid
from typing import NamedTuple

from tasks.checks import is_group

__all__ = [
    "LEVELS",
    "OWN_PREFIX",
    "PROBE",
    "TOPIC_KEY_TYPES",
    "PollKeys",
    "TopicKeys",
    "alive_key",
    "beat_key",
    "cursor_key",
    "cut_guard",
    "dead_topic",
    "derived_from",
    "inlet_of",
    "inlet_of_cursor",
    "lease_key",
    "letter_counts",
    "limit_keys",
    "matching",
    "members_key",
    "once_record",
    "open_claims",
    "partitions_key",
    "poll_keys",
    "push_record",
    "replay_record",
    "result_of",
    "result_record",
    "retried_topic",
    "retry_topic",
    "retrying_key",
    "scope_of",
    "state_key",
    "state_scope",
    "tick_record",
    "topic_keys",
]

OWN_PREFIX = "sluice:"
"""The beginning of all keys that are no topics."""

LEVELS = "sluice:levels"
PROBE = "sluice:doctor"
"""A key that `sluice doctor` looks for, to see whether scripts run; nothing writes it."""

_BEAT = "sluice:beat:"
_CURSOR = "sluice:cursor:"
_DERIVED = re.compile(r"(.+):(dead|retry):([^:]+)", re.DOTALL)
_RESULT = re.compile(r"sluice:output:([^:]+):(.+):([0-9]+-[0-9]+)", re.DOTALL)
_GLOB = re.compile(r"([*?\[\]\\])")


class TopicKeys(NamedTuple):
    """A topic's stream, and the keys that scripts keep up to date with it."""

    topic: str
    state: str
    samples: str
    groups: str
    spilled: str
    tally: str


TOPIC_KEY_TYPES = TopicKeys("stream", "hash", "zset", "hash", "hash", "string")
"""The type of each of a topic's keys, as TYPE names it."""


class PollKeys(NamedTuple):
    """The keys that the runs of inlets on one Prefect server share."""

    runs: str
    seen: str
    lease: str
    inlets: str


def topic_keys(topic: str) -> TopicKeys:
    """Return the keys of a topic."""
    return TopicKeys(
        topic,
        f"sluice:topic:{topic}",
        f"sluice:index:{topic}",
        f"sluice:groups:{topic}",
        f"sluice:spilled:{topic}",
        f"sluice:tally:{topic}",
    )


def dead_topic(topic: str, group: str) -> str:
    """Return the topic of the entries of `topic` that `group` could not process."""
    return f"{topic}:dead:{group}"


def retry_topic(topic: str, group: str) -> str:
    """Return the topic of replayed dead letters, which only `group` reads, together with `topic`."""
    return f"{topic}:retry:{group}"


def retried_topic(stream: str, group: str) -> str | None:
    """Return the topic whose retry topic for `group` is `stream`; None for any other stream.

    >>> retried_topic("market:retry:movers", "movers"), retried_topic("market", "movers")
    ('market', None)
    """
    topic = stream.removesuffix(f":retry:{group}")
    return None if topic == stream else topic


def derived_from(stream: str) -> tuple[str, str, str] | None:
    """Return the topic, 'dead' or 'retry', and the group of a topic of dead letters or retries; None for any other stream.

    >>> derived_from("market:dead:movers"), derived_from("market")
    (('market', 'dead', 'movers'), None)
    """
    found = _DERIVED.fullmatch(stream)
    return (found[1], found[2], found[3]) if found and is_group(found[3]) else None


def matching(text: str) -> str:
    r"""Return the pattern of SCAN that matches this text alone.

    >>> matching("a*[b]")
    'a\\*\\[b\\]'
    """
    return _GLOB.sub(r"\\\1", text)


def letter_counts(topic: str) -> str:
    """Return the key with the number and the bytes of each group's dead letters of a topic."""
    return f"sluice:letters:{topic}"


def retrying_key(topic: str) -> str:
    """Return the key of a hash: how many failed calls each consumer of a topic tries again."""
    return f"sluice:retrying:{topic}"


def partitions_key(topic: str) -> str:
    """Return the key of a hash: the number of partitions of a topic, their key and their hash."""
    return f"sluice:partitions:{topic}"


def lease_key(group: str, consumer: str) -> str:
    """Return the key that a consumer holds while it is alive."""
    return f"sluice:lease:{group}:{consumer}"


def result_record(group: str, topic: str, id: str) -> str:  # noqa: A002 - the field's own name
    """Return the key of a hash: the results of `group` whose newest input is this entry, and the failed attempts to make them."""
    return f"sluice:output:{group}:{topic}:{id}"


def state_scope(group: str, partition: int | None = None) -> str:
    """Return the name of what one consumer of a group owns: the group itself, or one partition of its topics.

    >>> state_scope("movers"), state_scope("movers", 3)
    ('movers', 'movers:{3}')
    """
    return group if partition is None else f"{group}:{{{partition}}}"


def state_key(scope: str) -> str:
    """Return the key of a hash: the owner of a scope, and the state that the nodes of its pipeline remember."""
    return f"sluice:state:{scope}"


def scope_of(key: str) -> str:
    """Return the scope whose state has this key.

    >>> scope_of(state_key("movers"))
    'movers'
    """
    return key.removeprefix(state_key(""))


def cut_guard(scope: str) -> str:
    """Return the key that exists within the transaction that stores a cut of a scope's state."""
    return f"sluice:cut:{scope}"


def members_key(group: str) -> str:
    """Return the key of the runs that share the partitions of a group's topics."""
    return f"sluice:members:{group}"


def result_of(key: str) -> tuple[str, str, str] | None:
    """Return the group, the topic and the id of `result_record`; None for any other key.

    >>> result_of(result_record("movers", "market:cn", "1-0")), result_of("market:cn")
    (('movers', 'market:cn', '1-0'), None)
    """
    found = _RESULT.fullmatch(key)
    return (found[1], found[2], found[3]) if found else None


def push_record() -> str:
    """Return a new key that remembers one append."""
    return f"sluice:push:{uuid.uuid4().hex}"


def once_record(run: str) -> str:
    """Return the key that remembers the append of an inlet's one-shot run."""
    return f"sluice:once:{run}"


def replay_record() -> str:
    """Return a new key that remembers the last letter that one replay, or one discard, has taken."""
    return f"sluice:replay:{uuid.uuid4().hex}"


def beat_key(inlet: str) -> str:
    """Return the key of the ticks of an inlet, which is named with a digest of its parameters."""
    return f"{_BEAT}{inlet}"


def inlet_of(beat: str) -> str:
    """Return the inlet, with the digest of its parameters, of the key of a beat.

    >>> inlet_of(beat_key("quotes:5f0c"))
    'quotes:5f0c'
    """
    return beat.removeprefix(_BEAT)


def cursor_key(inlet: str) -> str:
    """Return the key of the cursor of an inlet, which is named with a digest of its parameters."""
    return f"{_CURSOR}{inlet}"


def inlet_of_cursor(key: str) -> str:
    """Return the inlet, with the digest of its parameters, of the key of a cursor.

    >>> inlet_of_cursor(cursor_key("trades:5f0c"))
    'trades:5f0c'
    """
    return key.removeprefix(_CURSOR)


def limit_keys(limit: str) -> tuple[str, str]:
    """Return the key with the times of the latest calls under a limit, and the key that exists while no call is allowed.

    limit   its name; of an inlet without one, the inlet with the digest of its parameters
    """
    return f"sluice:limit:{limit}", f"sluice:limit:{limit}:pause"


def open_claims(beat: str) -> str:
    """Return the key of the ticks of a beat that are claimed and not done, with the runs that claimed them."""
    return f"{beat}:open"


def tick_record(beat: str, tick: int | str) -> str:
    """Return the key that remembers which run claimed a tick, and then the ids that it pushed."""
    return f"{beat}:{tick}"


def alive_key(beat: str, token: str) -> str:
    """Return the key that exists while a run of a beat lives."""
    return f"{beat}:alive:{token}"


def poll_keys(server: str) -> PollKeys:
    """Return the keys that share what one Prefect server knows of the inlets' runs; `server` is a digest of its address."""
    prefix = f"sluice:poll:{server}"
    return PollKeys(f"{prefix}:runs", f"{prefix}:seen", f"{prefix}:lease", f"{prefix}:inlets")
