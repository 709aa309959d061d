"""The scripts by which a consumer holds its lease, and moves, counts, acknowledges and dead-letters entries while it holds it.

Those that touch entries check the lease in the same step, so a consumer that was taken for dead changes nothing.

A lease that holds another token is a tombstone: the consumer's entries were claimed. An absent lease has lapsed unnoticed:
nothing was claimed, and the consumer's commands count as before. (A consumer that was away for so long that its tombstone may
have lapsed counts as dead: see `Membership.renew`.)
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.group.dead_letter_limits import DeadLetterLimits
from tasks.reservoir.fence import Fence
from tasks.reservoir.keys import dead_topic, letter_counts, result_record, retried_topic, topic_keys
from tasks.reservoir.lua import load
from tasks.reservoir.results import STRAGGLERS_MS
from tasks.reservoir.retention import TTL_MS

__all__ = [
    "ACK", "COUNT", "DEAD_LETTER", "LAPSE", "MOVE", "OWN", "RELEASE", "RENEW", "RETIRE", "ack_arguments", "letter_arguments",
]  # fmt: skip

ACK = load(__file__, "ack")
COUNT = load(__file__, "count")
DEAD_LETTER = load(__file__, "dead_letter")
LAPSE = load(__file__, "lapse")
MOVE = load(__file__, "move")
OWN = load(__file__, "own")
RELEASE = load(__file__, "release")
RENEW = load(__file__, "renew")
RETIRE = load(__file__, "retire")


def ack_arguments(group: str, done: Mapping[str, Sequence[str]], records: list[str], fence: Fence) -> dict[str, Any]:
    """Return the arguments of ACK: entries by topic, and the records of their results."""
    done_ = [(int(retried_topic(topic, group) is not None), " ".join(ids)) for topic, ids in done.items()]
    return {
        "lease": fence.lease,
        "topics": list(done),
        "counts": [topic_keys(retried_topic(topic, group) or topic).spilled for topic in done],
        "records": records,
        "token": fence.token,
        "group": group,
        "record_ttl_ms": STRAGGLERS_MS,
        "counts_ttl_ms": TTL_MS,
        "done": list(itertools.chain(*done_)),
    }


def letter_arguments(
    group: str,
    topic: str,
    id: str,  # noqa: A002 - the field's own name
    about: Mapping[str, str],
    *,
    keep: DeadLetterLimits,
    fence: Fence,
    only_pending: bool = False,
    part: Mapping[bytes, bytes] | None = None,
) -> dict[str, Any]:
    """Return the arguments of DEAD_LETTER; see `Membership.dead_letter`."""
    pushed_to = retried_topic(topic, group) or topic
    keys = topic_keys(pushed_to)
    return {
        "lease": fence.lease,
        "topic": topic,
        "letters": dead_topic(pushed_to, group),
        "record": result_record(group, topic, id),
        "counts": letter_counts(pushed_to),
        "spilled": keys.spilled,
        "state": keys.state,
        "token": fence.token,
        "group": group,
        "id": id,
        "bounds": f"{keep.max_letters} {keep.max_bytes} {keep.min_bytes}",
        "record_ttl_ms": STRAGGLERS_MS,
        "ttl_ms": TTL_MS,
        "pushed_to": pushed_to,
        "only_pending": int(only_pending),
        "refusal": "",
        "part": [each for pair in (part or {}).items() for each in pair],
        "about": [text.encode(errors="backslashreplace") for pair in about.items() for text in pair],
    }
