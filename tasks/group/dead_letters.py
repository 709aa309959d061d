"""Dead letters: look them up, discard them, or replay them into the retry topic that only their group reads.

A dead letter has the fields of the entry, untouched, followed by fields about it, from `dead:topic` on. In the retry topic
the entry's fields are followed by `retry:id`, the id that the entry was pushed under, and `retry:times`, how often it was
replayed; a consumer removes these two.
"""

import heapq
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import redis

from tasks.base.ids import MAX_NUMBER, id_named, id_numbers, id_time
from tasks.checks import check_group, check_number
from tasks.errors import SettingsError
from tasks.reservoir.folding import streams_of
from tasks.reservoir.groups import groups_of
from tasks.reservoir.keys import dead_topic, letter_counts, replay_record, retry_topic
from tasks.reservoir.lua import load
from tasks.reservoir.refusals import explained
from tasks.reservoir.retention import TTL_MS
from tasks.reservoir.topic_names import check_topic, partition_of
from tasks.reservoir.unreadable import named

__all__ = ["DeadLetters", "Letter", "Outcome", "mixing", "take_out_id"]

Outcome = Literal["replayed", "discarded", "not there", "nothing to replay"]

_FULL_ID = re.compile(rb"\d+-\d+")
_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_DIGITS = 16  # more than any count reaches
# Letters per script, which blocks the whole server: a letter of 1.3 MB takes 7 ms.
_AT_ONCE = 100
_BYTES_AT_ONCE = 2**20
# Longer than any client retries a command.
_RECORD_TTL_MS = 600_000

_LOOK = load(__file__, "look")
_TAKE = load(__file__, "take")


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, without the entry's own fields.

    id          the id of the letter in the dead-letter topic
    entry_id    the id of the entry in its topic
    retries     how often the entry was replayed before
    deliveries  how often the entry was delivered
    attempts    how often the node was called with it before it failed for good
    combines    the nodes of its pipeline that combine several elements into one, such as windows; None if unknown
    traceback   '' unless tracebacks were requested
    topic       the topic of the entry, or its partition; '' if unknown
    """

    id: str
    entry_id: str = ""
    node: str = ""
    exception: str = ""
    retries: int = 0
    deliveries: int = 0
    attempts: int = 1
    combines: tuple[str, ...] | None = None
    traceback: str = ""
    topic: str = ""

    @property
    def time(self) -> datetime:
        """The time at which the entry became a dead letter, in UTC."""
        return id_time(self.id)


class DeadLetters:
    """The dead letters of `group` on `topic`, in all partitions; the group need not exist any more.

    Letters of different partitions may have the same id; a letter's `topic` tells them apart, and it is replayed there.

    raises    SettingsError: neither the group nor a letter of it exists; UnreadableTopicError: a key has an unexpected type
    """

    def __init__(self, client: redis.Redis, topic: str, group: str) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        check_group(group)
        self._topics = streams_of(client, check_topic(topic, derived=partition_of(topic) is not None))
        self._topic, self._group = topic, group
        self._look = _LOOK.on(client)
        self._take = _TAKE.on(client)
        with named(client, topic):
            self._is_gone = _no_such_group(client, topic, self._topics, group)
            if self._is_gone and not len(self):
                raise SettingsError(self._is_gone)

    def __len__(self) -> int:
        return sum(self._client.xlen(dead_topic(topic, self._group)) for topic in self._topics)

    def choose(
        self,
        *,
        ids: Collection[str] | None = None,
        node: str | None = None,
        exception: str | None = None,
        since: str | None = None,
        until: str | None = None,
        limit: int | None = None,
        tracebacks: bool = False,
    ) -> list[Letter]:
        """Return the letters that meet all conditions, in the order of their entries in the topic.

        ids            ids of letters; a letter that does not exist is returned with its id alone
        node           the node that raised
        exception      a part of the exception's text
        since, until   when the entries became dead letters: ISO 8601 times (UTC without an offset) or ids of letters
        limit          the maximum number of letters; those of the oldest entries are returned
        tracebacks     whether to return tracebacks
        raises         SettingsError: no such id, time or number
        """
        if limit is not None:
            check_number(limit, least=1, name="limit")
        first, last = _bound(since, "since", 0), _bound(until, "until", MAX_NUMBER)
        found, missing = self._letters(first, last, tracebacks=tracebacks), set[str]()
        if ids is not None:
            wanted = {_bound(id_, "ids", 0) for id_ in ids}
            found = [each for at in wanted for each in self._letters(at, at, tracebacks=tracebacks)]
            missing = {"{}-{}".format(*at) for at in wanted}.difference(each.id for each in found)
        chosen = [
            each
            for each in found
            if first <= id_numbers(each.id) <= last
            and (not node or each.node == node)
            and (not exception or exception in each.exception)
        ]
        chosen += map(Letter, missing)
        return sorted(chosen, key=_place)[:limit]

    def newest(self, n: int) -> Iterator[Letter]:
        """Yield the newest `n` letters, newest first, with their tracebacks."""
        walks = [self._walk(topic, "XREVRANGE", "+", "-", tracebacks=True) for topic in self._topics]
        return itertools.islice(heapq.merge(*walks, key=lambda letter: id_numbers(letter.id), reverse=True), n)

    def replay(self, letters: Collection[Letter], *, into_windows: bool = False) -> Iterator[tuple[Letter, Outcome]]:
        """Move letters to the retry topic, one after the other, and yield the outcome of each.

        Each letter is moved in one step and once, even if the reply is lost and the command is sent again. After an
        interruption each letter is in one of the two topics, and the next replay moves the remaining ones.

        into_windows   also replay letters whose pipeline combines entries; see `mixing`
        raises         SettingsError: the group does not exist, so that no consumer would read the entries; or their
                       pipeline combines entries. No letter was replayed
        """
        why = self._is_gone or ("" if into_windows else mixing(letters))
        if why:
            msg = f"{why}; nothing was replayed"
            raise SettingsError(msg)
        return self._taken(letters, "replayed")

    def discard(self, letters: Iterable[Letter]) -> Iterator[tuple[Letter, Outcome]]:
        """Delete letters, one after the other, and yield the outcome of each. An interruption leaves the remaining letters."""
        return self._taken(letters, "discarded")

    def _taken(self, letters: Iterable[Letter], done: Outcome) -> Iterator[tuple[Letter, Outcome]]:
        outcomes: dict[int, Outcome] = {1: done, 0: "not there", -1: "nothing to replay"}
        record = replay_record()
        for letter in letters:
            topic = letter.topic or self._topics[0]
            dead, counts = dead_topic(topic, self._group), letter_counts(topic)
            to = retry_topic(topic, self._group) if done == "replayed" else None
            try:
                answer = self._take(
                    letters=dead,
                    record=record,
                    counts=counts,
                    retries=to,
                    id=letter.id,
                    record_ttl_ms=_RECORD_TTL_MS,
                    counts_ttl_ms=TTL_MS,
                    group=self._group,
                )
            except redis.ResponseError as error:
                types = {dead: "stream", record: "string", counts: "hash"} | ({to: "stream"} if to else {})
                what = f"dead letter {letter.id} of topic {topic!r} was not moved"
                raise explained(error, self._client, types, what=what) from error
            yield letter, outcomes[answer]

    def _letters(self, first: tuple[int, int], last: tuple[int, int], *, tracebacks: bool) -> Iterator[Letter]:
        for topic in self._topics:
            yield from self._walk(topic, "XRANGE", "{}-{}".format(*first), "{}-{}".format(*last), tracebacks=tracebacks)

    def _walk(self, topic: str, command: str, start: str, end: str, *, tracebacks: bool) -> Iterator[Letter]:
        while page := self._page(topic, command, start, end, tracebacks=tracebacks):
            for values in page:
                id_, entry_id, *rest, retries, deliveries, attempts, combines, traceback = (
                    value.decode(errors="replace") for value in values
                )
                node, exception = rest
                yield Letter(
                    id_,
                    entry_id,
                    node,
                    exception,
                    _number(retries),
                    _number(deliveries),
                    _number(attempts) or 1,
                    _names(combines),
                    traceback,
                    topic,
                )
            start = f"({page[-1][0].decode()}"

    def _page(self, topic: str, command: str, start: str, end: str, *, tracebacks: bool) -> list[list[bytes]]:
        with named(self._client, topic):
            return self._look(
                letters=dead_topic(topic, self._group),
                command=command,
                start=start,
                stop=end,
                count=_AT_ONCE,
                max_bytes=_BYTES_AT_ONCE,
                with_tracebacks=int(tracebacks),
            )


def mixing(letters: Collection[Letter]) -> str:
    """Return why a replay of letters would combine entries that were never adjacent, '' if it would not.

    A replayed entry passes the whole pipeline again, after entries that were pushed later: windows, joins and accumulators
    treat it as the newest. Letters of an unknown pipeline count as combined.
    """
    combined = [one for one in letters if one.combines]
    unknown = sum(bool(one.entry_id) and one.combines is None for one in letters)
    if not combined and not unknown:
        return ""
    names = sorted({name for one in combined for name in one.combines or ()})
    parts = [f"{len(combined)} come from a pipeline that combines entries ({', '.join(names)})"] * bool(combined)
    parts += [f"{unknown} come from an unknown pipeline"] * bool(unknown)
    return (
        f"of {len(letters)} dead letters, {' and '.join(parts)}: a replay would combine them with entries that were never next to "
        "them; rewind the group or run a bounded replay instead (docs/dead-letters.md), or confirm the replay with into_windows "
        "(on the command line with --yes)"
    )


def _no_such_group(client: Any, topic: str, streams: Collection[str], group: str) -> str:
    """Return an error text that names the existing groups if `group` does not exist, '' if it does."""
    groups = sorted({name for stream in streams for name in groups_of(client, stream)})
    if group in groups:
        return ""
    found = (
        f"{topic!r} has {', '.join(map(repr, groups)) or 'none'}"
        if client.exists(*streams)
        else f"topic {topic!r} does not exist"
    )
    return f"expected a topic and one of its groups, got group {group!r} of topic {topic!r}: {found}"


def take_out_id(values: list[bytes]) -> str | None:
    """Remove the fields that a replay added to an entry (name, data, name, data, ...); return the id it was pushed under.

    Returns None, and removes nothing, if no replay added fields: another client appended the entry.
    """
    if values[-4:-3] != [b"retry:id"] or not _FULL_ID.fullmatch(values[-3]) or not values[-1].isdigit():
        return None
    id_ = values[-3].decode()
    del values[-4:]
    return id_


def _place(letter: Letter) -> tuple[int, int]:
    """Return the position of a letter's entry in its topic, or the letter's own position if that is unknown."""
    return id_numbers(letter.entry_id if _ID.fullmatch(letter.entry_id) else letter.id)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _DIGITS else 0


def _names(text: str) -> tuple[str, ...] | None:
    """Return the names of nodes in a letter's field; None if it holds anything else."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _bound(text: str | None, name: str, default: int) -> tuple[int, int]:
    """Return an id, or a time, as the two numbers of an id; missing numbers are `default`."""
    if not text:
        return default, default
    return id_named(text, name=name, expected="an ISO time or a dead letter's id", sequence=default)
