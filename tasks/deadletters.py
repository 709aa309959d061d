"""Dead letters, and how they get back: chosen ones are moved to the retry topic of their group, which it alone reads.

A dead letter is the entry's fields as they were, and behind them what is told of it, from `dead:topic` on. In the retry
topic the fields are followed by `retry:id`, the id the entry was pushed under, and `retry:times`, how often it was
replayed; a consumer takes these two off again.
"""

import itertools
import re
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import redis

from tasks.errors import SettingsError
from tasks.groups import groups_of
from tasks.ids import MAX_NUMBER, id_named, id_numbers, id_time
from tasks.scripts import ATTEMPT
from tasks.settings import check_group, check_number, check_topic, dead_topic, retry_topic

__all__ = ["DeadLetters", "Letter", "Outcome", "newest_letters", "take_out_id"]

Outcome = Literal["replayed", "not there", "nothing to replay"]

_FULL_ID = re.compile(rb"\d+-\d+")
# Looked at in one script, which holds up the whole server: a letter of 1.3 MB costs it 7 ms.
_AT_ONCE = 100
_BYTES_AT_ONCE = 2**20
# For longer than any client goes on sending a command again.
_RECORD_TTL_MS = 600_000

# KEYS: the dead-letter topic. ARGV: the command that walks it, from which id, to which, how many, after how many bytes
# no more, 1 for tracebacks. Returns of each letter its id, dead:id, dead:node, dead:exception, dead:retries,
# dead:deliveries and dead:traceback. The entry's own fields, which may be large, stay where they are; they may have such
# names, too: what is told begins at the last dead:topic.
_LOOK = """
local found, start, bytes = {}, ARGV[2], 0
for _ = 1, ARGV[4] do
  local letter = redis.call(ARGV[1], KEYS[1], start, ARGV[3], 'COUNT', 1)[1]
  if not letter then break end
  local values, told = letter[2], {}
  local n = #values
  while n > 0 and not told['dead:topic'] do
    told[values[n - 1]] = values[n]
    n = n - 2
  end
  if not told['dead:topic'] then told = {} end
  found[#found + 1] = {letter[1], told['dead:id'] or '', told['dead:node'] or '', told['dead:exception'] or '',
    told['dead:retries'] or '0', told['dead:deliveries'] or '0', ARGV[6] == '1' and told['dead:traceback'] or ''}
  start = '(' .. letter[1]
  for _, value in ipairs(values) do bytes = bytes + #value end
  if bytes > tonumber(ARGV[5]) then break end
end
return found
"""

# KEYS: the dead-letter topic, the retry topic, what this replay moved last. ARGV: the letter's id, the TTL of the third.
# Returns 1 if the letter was moved, also when it is asked for again; 0 if there is no such letter; -1 if it has no fields
# of an entry: that was trimmed before it failed, or had more fields than a script can move.
_REPLAY = (
    ATTEMPT
    + """
if redis.call('GET', KEYS[3]) == ARGV[1] then return 1 end
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then return 0 end
local values, told = letter[2], {}
local n = #values
while n > 0 and not told['dead:topic'] do
  told[values[n - 1]] = values[n]
  values[n - 1], values[n] = nil, nil
  n = n - 2
end
if n == 0 then return -1 end
values[n + 1], values[n + 2] = 'retry:id', told['dead:id']
values[n + 3], values[n + 4] = 'retry:times', tostring((told['dead:retries'] or 0) + 1)
local before, moved = redis.call('GET', KEYS[3]), nil
return attempt(function()
  redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
  redis.call('XDEL', KEYS[1], '0-0') -- who may not do this could not take back what follows
  moved = redis.call('XADD', KEYS[2], '*', unpack(values))
  redis.call('XDEL', KEYS[1], ARGV[1])
  return 1
end, function()
  if before then redis.call('SET', KEYS[3], before, 'PX', ARGV[2]) else redis.call('DEL', KEYS[3]) end
  if moved then redis.call('XDEL', KEYS[2], moved) end
end)
"""
)
_OUTCOMES: dict[int, Outcome] = {1: "replayed", 0: "not there", -1: "nothing to replay"}


@dataclass(frozen=True, slots=True)
class Letter:
    """What is told of a dead letter.

    id          its own id, among the dead letters
    entry_id    the id of the entry in its topic
    retries     how often it was replayed before
    deliveries  how often it had been delivered
    traceback   '' unless it was asked for
    """

    id: str
    entry_id: str = ""
    node: str = ""
    exception: str = ""
    retries: int = 0
    deliveries: int = 0
    traceback: str = ""

    @property
    def time(self) -> datetime:
        """When it was moved to the dead letters, in UTC."""
        return id_time(self.id)


class DeadLetters:
    """What `group` could not process of `topic`.

    raises    SettingsError: there is no such group: nobody would read what is replayed
    """

    def __init__(self, client: redis.Redis, topic: str, group: str) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._dead = dead_topic(check_topic(topic), check_group(group))
        self._retry = retry_topic(topic, group)
        self._look = client.register_script(_LOOK)
        self._replay = client.register_script(_REPLAY)
        if mistake := _no_such_group(client, topic, group):
            msg = f"{mistake}; nothing was replayed"
            raise SettingsError(msg)

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
    ) -> list[Letter]:
        """Return the letters for which all that is asked holds, in the order of their entries in the topic.

        ids            the letters' own; one that is not there is returned all the same, with nothing told of it
        node           the node that raised
        exception      text that what was raised contains
        since, until   when they became dead letters: ISO 8601 times (UTC unless they say otherwise) or letters' ids
        limit          at most so many, those of the oldest entries
        raises         SettingsError: no such id, time or number
        """
        if limit is not None:
            check_number(limit, least=1, name="limit")
        first, last = _bound(since, "since", 0), _bound(until, "until", MAX_NUMBER)
        found, missing = self._letters(first, last), set[str]()
        if ids is not None:
            wanted = {_bound(id_, "ids", 0) for id_ in ids}
            found = [each for at in wanted for each in self._letters(at, at)]
            missing = {"{}-{}".format(*at) for at in wanted}.difference(each.id for each in found)
        chosen = [
            each
            for each in found
            if first <= id_numbers(each.id) <= last
            and (not node or each.node == node)
            and (not exception or exception in each.exception)
        ]
        chosen += map(Letter, missing)
        return sorted(chosen, key=lambda each: id_numbers(each.entry_id or each.id))[:limit]

    def replay(self, letters: Iterable[Letter]) -> Iterator[tuple[Letter, Outcome]]:
        """Move letters to the retry topic, one after the other, and yield what became of each.

        Moved in one step and once, also when the reply is lost and it is sent again. Interrupted anywhere, each letter
        is in one of the two topics, and the next replay goes on with those that are left.
        """
        record = f"sluice:replay:{uuid.uuid4().hex}"
        for letter in letters:
            answer = self._replay(keys=[self._dead, self._retry, record], args=[letter.id, _RECORD_TTL_MS])
            yield letter, _OUTCOMES[answer]

    def _letters(self, first: tuple[int, int], last: tuple[int, int]) -> Iterator[Letter]:
        return _walk(self._look, self._dead, "XRANGE", "{}-{}".format(*first), "{}-{}".format(*last))


def newest_letters(client: redis.Redis, topic: str, group: str, n: int) -> list[Letter]:
    """Return the newest `n` dead letters, newest first, with their tracebacks; also those of a group that is gone.

    raises    SettingsError: there is neither such a group nor a letter of it
    """
    dead = dead_topic(check_topic(topic), check_group(group))
    if not client.exists(dead) and (mistake := _no_such_group(client, topic, group)):
        raise SettingsError(mistake)
    look = client.register_script(_LOOK)
    return list(itertools.islice(_walk(look, dead, "XREVRANGE", "+", "-", tracebacks=True), n))


def _walk(look: Any, dead: str, command: str, start: str, end: str, *, tracebacks: bool = False) -> Iterator[Letter]:
    while page := look(keys=[dead], args=[command, start, end, _AT_ONCE, _BYTES_AT_ONCE, int(tracebacks)]):
        for told in page:
            id_, entry_id, node, exception, retries, deliveries, traceback = (t.decode(errors="replace") for t in told)
            yield Letter(id_, entry_id, node, exception, int(retries), int(deliveries), traceback)
        start = f"({page[-1][0].decode()}"


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


def _bound(text: str | None, name: str, default: int) -> tuple[int, int]:
    """Return an id, or the first or last one of a moment, as two numbers; the missing ones are `default`."""
    if not text:
        return default, default
    return id_named(text, name=name, expected="an ISO time or a dead letter's id", sequence=default)
