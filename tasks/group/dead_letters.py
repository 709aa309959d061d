"""Dead letters, and what becomes of chosen ones: they are discarded, or moved to their group's retry topic, which it alone reads.

A dead letter is the entry's fields as they were, and behind them what is told of it, from `dead:topic` on. In the retry
topic the fields are followed by `retry:id`, the id the entry was pushed under, and `retry:times`, how often it was
replayed; a consumer takes these two off again.
"""

import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import redis

from tasks.base.ids import MAX_NUMBER, id_named, id_numbers, id_time
from tasks.checks import check_group, check_number, check_topic
from tasks.errors import SettingsError
from tasks.group.dead_letter_bounds import BOUNDS
from tasks.reservoir.groups import groups_of
from tasks.reservoir.keys import dead_topic, letter_counts, replay_record, retry_topic
from tasks.reservoir.refusals import explained
from tasks.reservoir.retention import TTL_MS
from tasks.reservoir.scripts import ATTEMPT
from tasks.reservoir.unreadable import named

__all__ = ["DeadLetters", "Letter", "Outcome", "mixing", "take_out_id"]

Outcome = Literal["replayed", "discarded", "not there", "nothing to replay"]

_FULL_ID = re.compile(rb"\d+-\d+")
_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_DIGITS = 16  # of a number that nobody has counted up to
# Looked at in one script, which holds up the whole server: a letter of 1.3 MB costs it 7 ms.
_AT_ONCE = 100
_BYTES_AT_ONCE = 2**20
# For longer than any client goes on sending a command again.
_RECORD_TTL_MS = 600_000

# told_of(values) splits a letter's values: returns what is told of it by name, and how many values are the entry's own.
# The entry's fields may have such names, too: what is told begins at the last dead:topic. Without one, nothing is told.
_TOLD = """
local function told_of(values)
  local told, n = {}, #values
  while n > 0 and not told['dead:topic'] do
    told[values[n - 1]] = values[n]
    n = n - 2
  end
  if not told['dead:topic'] then return {}, #values end
  return told, n
end
"""

# KEYS: the dead-letter topic. ARGV: the command that walks it, from which id, to which, how many, after how many bytes
# no more, 1 for tracebacks. Returns of each letter its id, and what is told of it as `DeadLetters` reads it. The entry's own
# fields, which may be large, stay where they are.
_LOOK = (
    _TOLD
    + """
local found, start, bytes = {}, ARGV[2], 0
for _ = 1, ARGV[4] do
  local letter = redis.call(ARGV[1], KEYS[1], start, ARGV[3], 'COUNT', 1)[1]
  if not letter then break end
  local told = told_of(letter[2])
  found[#found + 1] = {letter[1], told['dead:id'] or '', told['dead:node'] or '', told['dead:exception'] or '',
    told['dead:retries'] or '', told['dead:deliveries'] or '', told['dead:combines'] or '',
    ARGV[6] == '1' and told['dead:traceback'] or ''}
  start = '(' .. letter[1]
  for _, value in ipairs(letter[2]) do bytes = bytes + #value end
  if bytes > tonumber(ARGV[5]) then break end
end
return found
"""
)

# KEYS: the dead-letter topic, what this command took last, the letters' counts, the retry topic to replay them. ARGV: the
# letter's id, the TTL of the second, that of the third, the group.
# Returns 1 if the letter was moved, or removed, also when it is asked for again; 0 if there is no such letter; -1 if it cannot
# be replayed: it has no fields of an entry, which was trimmed before it failed or had more than a script can move, or no id
# of one.
_TAKE = (
    ATTEMPT
    + BOUNDS
    + _TOLD
    + """
if redis.call('GET', KEYS[2]) == ARGV[1] then return 1 end
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then return 0 end
local keys, values = {letters = KEYS[1], counts = KEYS[3], ttl = ARGV[3]}, nil
if KEYS[4] then
  local told, n = told_of(letter[2])
  if n == 0 or n > 7900 or not string.match(told['dead:id'] or '', '^%d+%-%d+$') then return -1 end
  values = {unpack(letter[2], 1, n)}
  values[n + 1], values[n + 2] = 'retry:id', told['dead:id']
  values[n + 3], values[n + 4] = 'retry:times', string.format('%.0f', (tonumber(told['dead:retries']) or 0) + 1)
end
local before, moved = redis.call('GET', KEYS[2]), nil
return attempt(function()
  -- First: who may not do this could not take back what follows, and a full server refuses no script that has written already.
  redis.call('XDEL', KEYS[1], '0-0')
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
  if values then moved = redis.call('XADD', KEYS[4], '*', unpack(values)) end
  drop_letter(keys, ARGV[4], letter)
  return 1
end, function()
  if before then redis.call('SET', KEYS[2], before, 'PX', ARGV[2]) else redis.call('DEL', KEYS[2]) end
  if moved then redis.call('XDEL', KEYS[4], moved) end
end)
"""
)


@dataclass(frozen=True, slots=True)
class Letter:
    """What is told of a dead letter.

    id          its own id, among the dead letters
    entry_id    the id of the entry in its topic
    retries     how often it was replayed before
    deliveries  how often it had been delivered
    combines    the nodes of its pipeline that make an element of several, such as windows; None where that is not known
    traceback   '' unless it was asked for
    """

    id: str
    entry_id: str = ""
    node: str = ""
    exception: str = ""
    retries: int = 0
    deliveries: int = 0
    combines: tuple[str, ...] | None = None
    traceback: str = ""

    @property
    def time(self) -> datetime:
        """When it was moved to the dead letters, in UTC."""
        return id_time(self.id)


class DeadLetters:
    """What `group` could not process of `topic`; also of a group that is gone.

    raises    SettingsError: there is neither such a group nor a letter of it; UnreadableTopicError: another key is in the way
    """

    def __init__(self, client: redis.Redis, topic: str, group: str) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._dead = dead_topic(check_topic(topic), check_group(group))
        self._retry = retry_topic(topic, group)
        self._counts = letter_counts(topic)
        self._topic, self._group = topic, group
        self._look = client.register_script(_LOOK)
        self._take = client.register_script(_TAKE)
        with named(client, topic):
            self._is_gone = _no_such_group(client, topic, group)
            if self._is_gone and not len(self):
                raise SettingsError(self._is_gone)

    def __len__(self) -> int:
        return self._client.xlen(self._dead)

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
        """Return the letters for which all that is asked holds, in the order of their entries in the topic.

        ids            the letters' own; one that is not there is returned all the same, with nothing told of it
        node           the node that raised
        exception      text that what was raised contains
        since, until   when they became dead letters: ISO 8601 times (UTC unless they say otherwise) or letters' ids
        limit          at most so many, those of the oldest entries
        tracebacks     return these, too
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
        return itertools.islice(self._walk("XREVRANGE", "+", "-", tracebacks=True), n)

    def replay(self, letters: Collection[Letter], *, into_windows: bool = False) -> Iterator[tuple[Letter, Outcome]]:
        """Move letters to the retry topic, one after the other, and yield what became of each.

        Moved in one step and once, also when the reply is lost and it is sent again. Interrupted anywhere, each letter
        is in one of the two topics, and the next replay goes on with those that are left.

        into_windows   also those whose pipeline combines entries, see `mixing`
        raises         SettingsError, and nothing was replayed: the group is gone, so that nobody would read them; or their
                       pipeline combines entries
        """
        why = self._is_gone or ("" if into_windows else mixing(letters))
        if why:
            msg = f"{why}; nothing was replayed"
            raise SettingsError(msg)
        return self._taken(letters, "replayed", self._retry)

    def discard(self, letters: Iterable[Letter]) -> Iterator[tuple[Letter, Outcome]]:
        """Remove letters for good, one after the other, and yield what became of each. Interrupted, the others are left."""
        return self._taken(letters, "discarded")

    def _taken(self, letters: Iterable[Letter], done: Outcome, *to: str) -> Iterator[tuple[Letter, Outcome]]:
        outcomes: dict[int, Outcome] = {1: done, 0: "not there", -1: "nothing to replay"}
        record = replay_record()
        keys = {self._dead: "stream", record: "string", self._counts: "hash", **dict.fromkeys(to, "stream")}
        for letter in letters:
            try:
                answer = self._take(keys=list(keys), args=[letter.id, _RECORD_TTL_MS, TTL_MS, self._group])
            except redis.ResponseError as error:
                what = f"dead letter {letter.id} of topic {self._topic!r} stays where it is"
                raise explained(error, self._client, keys, what=what) from error
            yield letter, outcomes[answer]

    def _letters(self, first: tuple[int, int], last: tuple[int, int], *, tracebacks: bool) -> Iterator[Letter]:
        return self._walk("XRANGE", "{}-{}".format(*first), "{}-{}".format(*last), tracebacks=tracebacks)

    def _walk(self, command: str, start: str, end: str, *, tracebacks: bool) -> Iterator[Letter]:
        while page := self._page(command, start, end, tracebacks=tracebacks):
            for told in page:
                id_, entry_id, *rest, retries, deliveries, combines, traceback = (
                    t.decode(errors="replace") for t in told
                )
                node, exception = rest
                yield Letter(
                    id_, entry_id, node, exception, _number(retries), _number(deliveries), _names(combines), traceback
                )
            start = f"({page[-1][0].decode()}"

    def _page(self, command: str, start: str, end: str, *, tracebacks: bool) -> list[list[bytes]]:
        with named(self._client, self._topic):
            return self._look(keys=[self._dead], args=[command, start, end, _AT_ONCE, _BYTES_AT_ONCE, int(tracebacks)])


def mixing(letters: Collection[Letter]) -> str:
    """Return why a replay of letters would combine entries that never were together, '' if it would not.

    A replayed entry goes through the whole pipeline again, behind entries that were pushed after it: windows, joins and
    accumulators take it for their newest. Letters that do not tell what their pipeline has are counted among them.
    """
    combined = [one for one in letters if one.combines]
    unknown = sum(bool(one.entry_id) and one.combines is None for one in letters)
    if not combined and not unknown:
        return ""
    names = sorted({name for one in combined for name in one.combines or ()})
    parts = [f"{len(combined)} were in a pipeline that combines entries ({', '.join(names)})"] * bool(combined)
    parts += [f"{unknown} do not tell whether theirs does"] * bool(unknown)
    return (
        f"of {len(letters)} dead letters {' and '.join(parts)}: a replay puts them beside entries that they were never beside; "
        "rewind the group or run a bounded replay instead (docs/dead-letters.md), or confirm it with into_windows (on the "
        "command line with --yes)"
    )


def _no_such_group(client: Any, topic: str, group: str) -> str:
    """Return a sentence on what there is instead of `group`, '' if it is there."""
    groups = sorted(groups_of(client, topic))
    if group in groups:
        return ""
    found = (
        f"{topic!r} has {', '.join(map(repr, groups)) or 'none'}" if client.exists(topic) else f"there is no {topic!r}"
    )
    return f"expected a topic and one of its groups, got group {group!r} of topic {topic!r}: {found}"


def take_out_id(values: list[bytes]) -> str | None:
    """Take from a retried entry (name, data, name, data, ...) what a replay added; return the id it was pushed under.

    None of one that was not replayed, but put there by hand, whatever it says.
    """
    if values[-4:-3] != [b"retry:id"] or not _FULL_ID.fullmatch(values[-3]) or not values[-1].isdigit():
        return None
    id_ = values[-3].decode()
    del values[-4:]
    return id_


def _place(letter: Letter) -> tuple[int, int]:
    """Return where a letter's entry was in its topic; of one that tells no such place, where it is itself."""
    return id_numbers(letter.entry_id if _ID.fullmatch(letter.entry_id) else letter.id)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _DIGITS else 0


def _names(text: str) -> tuple[str, ...] | None:
    """Return the names that a letter tells; None of one that tells none, or something else."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _bound(text: str | None, name: str, default: int) -> tuple[int, int]:
    """Return an id, or the first or last one of a moment, as two numbers; the missing ones are `default`."""
    if not text:
        return default, default
    return id_named(text, name=name, expected="an ISO time or a dead letter's id", sequence=default)
