"""Records of results, kept under an input entry, so that each result is appended once.

A record exists as long as its entry is pending: after a crash, a retry or a claim, the append of the same result finds it.
Once the entry is acknowledged, the result cannot be produced again.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from tasks.base.ids import id_numbers
from tasks.reservoir.keys import matching, result_of, result_record

__all__ = [
    "RESULT_TTL_MS",
    "STRAGGLERS_MS",
    "Input",
    "forget_results",
    "newest",
    "records_of",
    "result_name",
]

# For records that no acknowledgement removes: the entry was trimmed while pending, or the group was deleted.
RESULT_TTL_MS = 30 * 86_400_000
# After the acknowledgement, a copy of an append may still be in transit on a lost connection for this long.
STRAGGLERS_MS = 60_000


class Input(Protocol):
    """An input entry of a result."""

    topic: str
    id: str


def result_name(made_of: Iterable[Input], *, into: str, node: str, ordinal: int) -> bytes:
    """Return a result's name in its record: the same in every life of a pipeline.

    made_of   the input entries
    into      the topic of the result
    ordinal   number of earlier results of the node from the same entries
    """
    inputs = " ".join(f"{_escaped(one.topic)}/{one.id}" for one in made_of)
    return hashlib.blake2b(f"{_escaped(into)} {node} {ordinal} {inputs}".encode(), digest_size=16).digest()


def _escaped(topic: str) -> str:
    """Escape the separators of `result_name` in a topic's name; names that 0.1.0 permitted stay unchanged."""
    return topic.replace("%", "%25").replace(" ", "%20").replace("/", "%2F")


One = TypeVar("One", bound=Input)


def newest(made_of: Sequence[One]) -> One:
    """Return the newest entry: a record under an entry that is held for long would collect many results."""
    return made_of[0] if len(made_of) == 1 else max(made_of, key=_age)


def records_of(client: Any, group: str, topic: str) -> list[bytes]:
    """Return the keys of all records of results that `group` made from entries of `topic`."""
    found = client.scan_iter(match=matching(result_record(group, topic, "")) + "[0-9]*", count=1000)
    return [key for key in found if _is_of(key, group, topic)]  # without those of the topic '<topic>:1'


def _is_of(key: bytes, group: str, topic: str) -> bool:
    found = result_of(key.decode(errors="replace"))
    return found is not None and found[:2] == (group, topic)


def forget_results(client: Any, group: str, topic: str) -> None:
    """Delete every record of results that `group` holds for entries of `topic`."""
    for key in records_of(client, group, topic):
        client.unlink(key)


def _age(one: Input) -> tuple[int, int, str]:
    return *id_numbers(one.id), one.topic
