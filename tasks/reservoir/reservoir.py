"""The reservoir: topics in Redis, one stream each. Appends happen once, however often they are sent."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Self

import redis

from tasks import codec
from tasks.base.logs import get_logger
from tasks.base.repeated_warnings import Repeated
from tasks.checks import check_topic, is_topic
from tasks.codec.decoding import DEFAULT_DECODING, Decoding
from tasks.codec.limits import Budget
from tasks.errors import EncodeError, PoisonEntryError, TopicFullError
from tasks.reservoir.connection import adapted, connect
from tasks.reservoir.entry import Entry
from tasks.reservoir.fence import Fence
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import TOPIC_KEY_TYPES, push_record, topic_keys
from tasks.reservoir.levels import Levels, TopicLevel
from tasks.reservoir.refusals import explained
from tasks.reservoir.retention import RETENTION, TTL_MS
from tasks.reservoir.scripts import ATTEMPT
from tasks.settings import redis_url

__all__ = ["Reservoir"]

logger = get_logger(__name__)

# With a space, so that redis-py hands on the reply as it came: it would make a dict of fields, and lose repeated names.
_XREVRANGE, _XREAD = "XREVRANGE ", "XREAD "
# How long an append is remembered: longer than any client goes on sending it again.
APPEND_TTL_MS = 600_000
# Lua's unpack() takes about 8,000 values; a field is two of them.
MAX_FIELDS = 3_500
# An entry of this many bytes is not led through Lua, which hashes each string that it gets byte for byte (Redis 7.0:
# 2 ns a byte, as long as all the rest of the append of a large frame).
LARGE = 256 * 1024

# KEYS: the topic, the append's record. Marks where the topic ends before the entry of the same transaction is appended, by a
# group: XINFO STREAM would read the last entry, which may be large.
_MARK = "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('XGROUP', 'CREATE', KEYS[1], KEYS[2], '$') end"

# KEYS: those of `topic_keys`, the append's record and, if only a living consumer may append, its lease. ARGV: the record's
# expected value ('' for any), its TTL in ms, what to keep ('' for all), the TTL of what is beside the topic, the number of
# entries, the record's field if it is a hash ('' if not), the lease's token, then for each entry the number of its values
# and the values: field, bytes, ... Or 0 and the bytes of one entry that the same transaction has appended just before.
# Returns the entry ids, joined by spaces; the same ones when the append is sent again; nil when the record is not what
# was expected or the lease is not held, 1 when the topic is full, and then nothing is appended, or it is taken back. It is
# taken back as well where anything beside the topic is refused; where even that is refused (XDEL is), it stays with its
# record, and the reply is the ids and what was refused.
#
# Every 64 entries or 64 KB a sample goes into the index, so that from one sample to the next there is never much to
# read. Retention looks at the topic every so many entries, as it would cost more than the append.
_APPEND = (
    ATTEMPT
    + RETENTION
    + """
local keys = {topic = KEYS[1], state = KEYS[2], index = KEYS[3], groups = KEYS[4], spilled = KEYS[5], tally = KEYS[6], ttl = ARGV[4]}
local is_large = ARGV[8] == '0'
local ids, samples, tally_before = {}, 0, nil

local function take_back()
  if #ids == 0 then return end
  for first = 1, #ids, 1000 do redis.call('XDEL', keys.topic, unpack(ids, first, math.min(first + 999, #ids))) end
  ids = {}
  if samples > 0 then redis.call('ZREMRANGEBYRANK', keys.index, -samples, -1) end
  if tally_before then redis.call('SET', keys.tally, tally_before, 'PX', keys.ttl) else redis.call('DEL', keys.tally) end
end

local function record_all()
  local joined, field = table.concat(ids, ' '), ARGV[6]
  if field == '' then
    redis.call('SET', KEYS[7], '=' .. joined, 'PX', ARGV[2])
  else
    redis.call('HSET', KEYS[7], field, '=' .. joined)
    redis.call('PEXPIRE', KEYS[7], ARGV[2])
  end
  return joined
end

local function instead(answer)
  take_back()
  return answer
end

local function last_id_by(group)
  for _, each in ipairs(groups_of(keys.topic)) do
    if each.name == group then return each['last-delivered-id'] end
  end
end

-- The id of what was appended just before; none if that was refused.
local function find_appended()
  if redis.call('EXISTS', keys.topic) == 0 then return end
  local before = last_id_by(KEYS[7])
  redis.call('XGROUP', before and 'SETID' or 'CREATE', keys.topic, KEYS[7], '$')
  local last = last_id_by(KEYS[7])
  if last ~= before then ids[1] = last end
  redis.call('XGROUP', 'DESTROY', keys.topic, KEYS[7])
end

local function append()
  if is_large then
    find_appended()
    if #ids == 0 then return false end
    redis.call('XDEL', keys.topic, '0-0') -- who may not do this must not append again in this way
  end
  local tally = redis.call('GET', keys.tally)
  tally_before = tally
  if KEYS[8] then
    local holder = redis.call('GET', KEYS[8])
    if holder and holder ~= ARGV[7] then return instead(false) end
  end
  local field, record = ARGV[6], nil
  if field == '' then record = redis.call('GET', KEYS[7]) else record = redis.call('HGET', KEYS[7], field) end
  if record and string.sub(record, 1, 1) == '=' then return instead(string.sub(record, 2)) end
  if ARGV[1] ~= '' and record ~= ARGV[1] then return instead(false) end
  -- Entries and bytes appended; at which of those retention looks again; entries and bytes since the last sample, and
  -- the entries up to it, those of other clients too.
  local pushed, bytes, due, due_bytes, since, since_bytes, total = string.match(tally or '0 0 0 0 0 0 0', '(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)')
  local keep, upto = ARGV[3], pushed + ARGV[5]

  local function is_full()
    if upto <= tonumber(due) and tonumber(bytes) <= tonumber(due_bytes) then return false end
    local entries, limit = string.match(keep, '^(%d+) %d+ (%d+)')
    local _, _, status = retain(keys, keep, tonumber(ARGV[5]))
    due, due_bytes = upto, bytes
    if status == '' then
      due = upto + (entries == '0' and 64 or math.max(1, math.min(1000, math.floor(entries / 16))))
      due_bytes = limit == '0' and 9007199254740992 or bytes + math.floor(limit / 16)
    end
    redis.call('HSET', keys.state, 'keep', keep)
    redis.call('PEXPIRE', keys.state, keys.ttl)
    redis.call('PEXPIRE', keys.groups, keys.ttl)
    return status == 'full'
  end

  local function remember()
    redis.call('SET', keys.tally, string.format('%.0f %.0f %.0f %.0f %.0f %.0f %.0f', pushed, bytes, due, due_bytes, since,
      since_bytes, total), 'PX', keys.ttl)
  end

  -- A topic that waits is looked at before the append, which may be refused; one that spills, after it.
  local waits = string.sub(keep, -1) == '1'
  if waits and is_full() then return 1 end
  local i = 8
  while i <= #ARGV do
    local last, size, id = i + ARGV[i], 0, nil
    if is_large then
      last, size, id = i + 1, tonumber(ARGV[i + 1]), ids[1]
    else
      for j = i + 1, last do size = size + #ARGV[j] end
      id = redis.call('XADD', keys.topic, '*', unpack(ARGV, i + 1, last))
      ids[#ids + 1] = id
    end
    bytes, since, since_bytes = bytes + size, since + 1, since_bytes + size
    if not tally or since >= 64 or since_bytes >= 65536 then
      if not tally then redis.call('DEL', keys.index) end
      local length = redis.call('XLEN', keys.topic)
      local all = length + (redis.call('HGET', keys.state, 'gone') or 0)
      if tally and all < total + since then -- another client deleted some, nobody knows where
        redis.call('DEL', keys.index)
        redis.call('HSET', keys.state, 'gone', 0)
        all = length
      end
      tally, total, since, since_bytes = true, all, 0, 0
      redis.call('ZADD', keys.index, string.format('%.0f', total), id .. string.format(' %.0f', bytes))
      samples = samples + 1
      redis.call('PEXPIRE', keys.index, keys.ttl)
    end
    i = last + 1
  end
  pushed = upto
  remember()
  if keep ~= '' and not waits then
    local before = due
    is_full()
    if due ~= before then remember() end
  end
  return record_all()
end

local done, answer = pcall(append)
if done then return answer end
local is_back = pcall(take_back)
if is_back or #ids == 0 then return refused(answer) end
return {record_all(), why(answer)}
"""
)


class Reservoir:
    """Topics in one Redis.

    client       a redis-py client that returns bytes
    compression  of frames: None, 'lz4' or 'zstd'
    """

    def __init__(self, client: redis.Redis, *, compression: str | None = None) -> None:
        self.client: Any = adapted(client)  # redis-py types replies for all protocols and decodings at once
        self.compression = compression
        self._append = self.client.register_script(_APPEND)
        self._warn = Repeated(logger)
        self._inferred: set[str] = set()  # topics to which frames of objects went
        self._may_take_back = True  # as far as is known

    @classmethod
    def from_url(cls, url: str | None = None, *, compression: str | None = None) -> Self:
        """Return the reservoir at `url`, by default at the address the settings name."""
        return cls(connect(url or redis_url()), compression=compression)

    def push(self, topic: str, fields: Mapping[str, Any], *, keep: int | str | Keep | None = None) -> str:
        """Append one entry and return its id. Exactly once, also when the reply is lost and it is sent again.

        keep      what of the topic is kept, beside what its live groups have not finished: see `Keep.of`
        raises    nothing was pushed: EncodeError; TopicFullError; SettingsError: no such name for a topic
        """
        return self.push_many(topic, [fields], keep=keep)[0]

    def push_many(
        self, topic: str, entries: Iterable[Mapping[str, Any]], *, keep: int | str | Keep | None = None
    ) -> list[str]:
        """Append entries in order, all or none, and return their ids. Exactly once, as `push`."""
        ids = self.append(topic, self.encode(entries, topic=topic), record=push_record(), keep=keep)
        assert ids is not None  # nothing was expected of the record
        return ids

    def encode(self, entries: Iterable[Any], *, topic: str = "") -> list[dict[bytes, bytes]]:
        """Return the entries as bytes: mappings of fields, or records such as dataclasses.

        topic     where they are going, for the log
        raises    EncodeError: before anything was pushed
        """

        def log_inferred() -> None:
            if topic not in self._inferred:
                self._inferred.add(topic)
                logger.info("topic %r: frames of objects are pushed after infer_objects(); this is logged once", topic)

        encoded = [
            codec.encode_fields(fields, compression=self.compression, on_inferred=log_inferred) for fields in entries
        ]
        for fields in encoded:
            if len(fields) > MAX_FIELDS:
                msg = f"expected an entry of at most {MAX_FIELDS} fields, got {len(fields)}; nothing was pushed; put them into one DataFrame or dict"
                raise EncodeError(msg)
        return encoded

    def append(
        self,
        topic: str,
        encoded: Iterable[Mapping[bytes, bytes]],
        *,
        record: str,
        field: bytes = b"",
        expected: str = "",
        fence: Fence | None = None,
        keep: int | str | Keep | None = None,
        ttl_ms: int = APPEND_TTL_MS,
    ) -> list[str] | None:
        """Append encoded entries once for all appends of the same `record`, and return their ids.

        record    the key that remembers the append, with a TTL; sent again, the first append's ids come back
        field     where in the record, if it is a hash that remembers several appends
        expected  append only if the record holds this; None is returned where it does not
        fence     append only if that consumer was not taken for dead; None is returned if it was
        raises    TopicFullError: what live groups have not read fills the topic; SettingsError
        """
        entries = list(encoded)
        if not entries:
            return []
        kept = None if keep is None else Keep.of(keep)
        told = [
            expected,
            ttl_ms,
            kept.packed() if kept else "",
            TTL_MS,
            len(entries),
            field,
            fence.token if fence else "",
        ]
        keys = [*topic_keys(check_topic(topic)), record, *([fence.lease] if fence else [])]
        size = sum(len(name) + len(data) for name, data in entries[0].items())
        try:
            # A topic that waits is looked at before there is anything more in it.
            waits = kept is not None and kept.when_full == "wait"
            if len(entries) == 1 and size >= LARGE and self._may_take_back and not waits:
                joined = self._append_large(entries[0], keys=keys, args=[*told, 0, size])
            else:
                values = [
                    each for fields in entries for each in (2 * len(fields), *chain.from_iterable(fields.items()))
                ]
                joined = self._append(keys=keys, args=[*told, *values])
        except redis.ResponseError as error:
            types = dict(zip(keys, [*TOPIC_KEY_TYPES, "hash" if field else "string", "string"], strict=False))
            raise explained(error, self.client, types, what=f"topic {topic!r}: nothing was pushed") from error
        if joined == 1:
            msg = (
                f"topic {topic!r} is full: expected its groups to have read all but {kept}; nothing was pushed; "
                "start the outlet that lags (`sluice status`), or let the topic spill (when_full='spill')"
            )
            raise TopicFullError(msg)
        if isinstance(joined, list):
            joined, refusal = joined
            self._may_take_back = False
            self._warn(
                f"topic {topic!r}: pushed, but Redis refuses what limits the topic and may not take the entry back",
                detail=f"with {refusal.decode(errors='replace')!r}; give this user the rights that docs/redis.md lists",
            )
        return None if joined is None else joined.decode().split(" ")

    def _append_large(self, fields: Mapping[bytes, bytes], *, keys: list[str], args: list[Any]) -> Any:
        """Append one entry by a command of its own, and have the script see to the rest in the same transaction."""
        topic, record = keys[0], keys[len(TOPIC_KEY_TYPES)]
        with self.client.pipeline() as pipe:
            pipe.eval(_MARK, 2, topic, record)
            pipe.xadd(topic, fields)
            # Not EVALSHA: where the script is not known any more, the entry would stay without its record.
            pipe.eval(self._append.script, len(keys), *keys, *args)
            try:
                _, id_, answer = pipe.execute(raise_on_error=False)
            except redis.ResponseError as error:  # redis-py names the command, which is the entry's bytes
                raise _without_command(error) from None
        if isinstance(id_, redis.ResponseError):
            raise _without_command(id_) from None
        if isinstance(answer, redis.ResponseError):
            # The script has taken the entry back, unless that was refused as well, or it was not run at all.
            for undo in (lambda: self.client.xdel(topic, id_), lambda: self.client.xgroup_destroy(topic, record)):
                with suppress(redis.ResponseError):
                    undo()
            raise _without_command(answer) from None
        return answer

    def peek(self, topic: str, n: int = 1, *, decoding: Decoding = DEFAULT_DECODING) -> list[Entry | PoisonEntryError]:
        """Return the newest `n` entries, oldest first; one that cannot be decoded as the error that says why."""
        found = self.client.execute_command(_XREVRANGE, check_topic(topic, derived=True), "+", "-", "COUNT", n)
        return _decoded_all(topic, reversed(found or ()), decoding)

    def follow(
        self, topic: str, after: str, *, n: int, block_ms: int, decoding: Decoding = DEFAULT_DECODING
    ) -> list[Entry | PoisonEntryError]:
        """Return the next `n` entries after the id `after`; wait up to `block_ms` for the first. Touches no group."""
        streams = ("COUNT", n, "BLOCK", block_ms, "STREAMS", check_topic(topic, derived=True), after)
        reply = self.client.execute_command(_XREAD, *streams)
        return [entry for _, found in reply or () for entry in _decoded_all(topic, found, decoding)]

    def topics(self) -> list[str]:
        """Return the names of all topics, sorted; those of dead letters too. Streams of other names are no topics."""
        keys = {key.decode(errors="replace") for key in self.client.scan_iter(_type="STREAM", count=1000)}
        return sorted(filter(is_topic, keys))

    def levels(self) -> list[TopicLevel]:
        """Return what every topic holds and how far each of its groups has come."""
        levels = Levels(self.client)
        return [level for topic in self.topics() if ":" not in topic and (level := levels.of(topic))]


def _without_command(error: redis.ResponseError) -> redis.ResponseError:
    return type(error)(str(error).rpartition(" caused error: ")[2])


def _decoded_all(topic: str, found: Iterable[Any], decoding: Decoding) -> list[Entry | PoisonEntryError]:
    return [
        decoded(topic, id_.decode(), list(zip(flat[::2], flat[1::2], strict=True)), decoding=decoding)
        for id_, flat in found
    ]


def decoded(
    topic: str,
    id: str,  # noqa: A002 - the field's own name
    raw: Mapping[bytes, bytes] | Sequence[tuple[bytes, bytes]],
    *,
    deliveries: int = 1,
    origin: tuple[str, str] | None = None,
    budget: Budget | None = None,
    decoding: Decoding = DEFAULT_DECODING,
) -> Entry | PoisonEntryError:
    """Return the entry, or the error that says which of its fields cannot be decoded, and why."""
    try:
        fields = codec.decode_fields(raw, budget=budget, decoding=decoding)
        return Entry(fields, topic=topic, id=id, deliveries=deliveries, origin=origin)
    except PoisonEntryError as error:
        poison = PoisonEntryError(f"topic {topic!r} entry {id}: {error}")
        poison.id = id
        return poison
