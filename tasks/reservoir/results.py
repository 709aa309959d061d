"""What makes a result go into its topic once: a record of it, kept with an entry that it was made of.

The record is there for as long as that entry is pending, so a result that is made again after a crash, a retry or
a claim is found. Once the entry is acknowledged the result cannot come again.
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

# For what no acknowledgement clears away: an entry that was trimmed while pending, a group that was deleted.
RESULT_TTL_MS = 30 * 86_400_000
# For how long after the acknowledgement a copy of an append may still be on its way, behind a lost connection.
STRAGGLERS_MS = 60_000


class Input(Protocol):
    """An entry that a result was made of."""

    topic: str
    id: str


def result_name(made_of: Iterable[Input], *, into: str, node: str, ordinal: int) -> bytes:
    """Return what a result is called in its record: the same in every life of a pipeline.

    ordinal   how many results the node has made of these entries before
    """
    inputs = " ".join(f"{_escaped(one.topic)}/{one.id}" for one in made_of)
    return hashlib.blake2b(f"{_escaped(into)} {node} {ordinal} {inputs}".encode(), digest_size=16).digest()


def _escaped(topic: str) -> str:
    """Return a topic's name without the separators of `result_name`: as it is if 0.1.0 could have stored results under it."""
    return topic.replace("%", "%25").replace(" ", "%20").replace("/", "%2F")


One = TypeVar("One", bound=Input)


def newest(made_of: Sequence[One]) -> One:
    """Return the newest of some entries: with it the record stays small, also where an old one is held for long."""
    return made_of[0] if len(made_of) == 1 else max(made_of, key=_age)


def records_of(client: Any, group: str, topic: str) -> list[bytes]:
    """Return the keys of all records of results that `group` made of entries of `topic`."""
    found = client.scan_iter(match=matching(result_record(group, topic, "")) + "[0-9]*", count=1000)
    return [key for key in found if _is_of(key, group, topic)]  # and those of the topic '<topic>:1' are left out


def _is_of(key: bytes, group: str, topic: str) -> bool:
    found = result_of(key.decode(errors="replace"))
    return found is not None and found[:2] == (group, topic)


def forget_results(client: Any, group: str, topic: str) -> None:
    """Delete every record of results that `group` holds for entries of `topic`."""
    for key in records_of(client, group, topic):
        client.unlink(key)


def _age(one: Input) -> tuple[int, int, str]:
    return *id_numbers(one.id), one.topic
