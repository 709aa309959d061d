"""The reservoir: topics in Redis, one stream each. Appends happen once, however often they are sent."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import redis

from tasks import codec
from tasks.connection import connect
from tasks.entry import Entry
from tasks.errors import EncodeError, PoisonEntryError, SettingsError
from tasks.membership import Fence
from tasks.settings import check_topic, dead_topic, redis_url

__all__ = ["GroupLevel", "Reservoir", "TopicLevel"]

# How long an append is remembered: longer than any client goes on sending it again.
APPEND_TTL_MS = 600_000
# Lua's unpack() takes about 8,000 values; a field is two of them.
MAX_FIELDS = 3_500

# KEYS: the topic, the append's record and, if only a living consumer may append, its lease. ARGV: the record's expected
# value ('' for any), its TTL in ms, the most entries to keep (0: all), the record's field if it is a hash ('' if not),
# the lease's token, then for each entry the number of its values and the values: field, bytes, ...
# Returns the entry ids, joined by spaces; the same ones when the append is sent again; nil when the record
# is not what was expected or the lease is not held, and then nothing is appended.
_APPEND = """
local field, record = ARGV[4], nil
if KEYS[3] then
  local holder = redis.call('GET', KEYS[3])
  if holder and holder ~= ARGV[5] then return false end
end
if field == '' then record = redis.call('GET', KEYS[2]) else record = redis.call('HGET', KEYS[2], field) end
if record and string.sub(record, 1, 1) == '=' then return string.sub(record, 2) end
if ARGV[1] ~= '' and record ~= ARGV[1] then return false end
local ids, i = {}, 6
while i <= #ARGV do
  local n = tonumber(ARGV[i])
  if ARGV[3] == '0' then
    ids[#ids + 1] = redis.call('XADD', KEYS[1], '*', unpack(ARGV, i + 1, i + n))
  else
    ids[#ids + 1] = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', unpack(ARGV, i + 1, i + n))
  end
  i = i + n + 1
end
local joined = table.concat(ids, ' ')
if field == '' then
  redis.call('SET', KEYS[2], '=' .. joined, 'PX', ARGV[2])
else
  redis.call('HSET', KEYS[2], field, '=' .. joined)
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
return joined
"""


@dataclass(frozen=True, slots=True)
class GroupLevel:
    """How far one consumer group has come on one topic.

    lag      entries the group has not read yet; None where Redis does not know
    dead     entries in the group's dead-letter topic
    """

    name: str
    consumers: int
    pending: int
    lag: int | None
    dead: int


@dataclass(frozen=True, slots=True)
class TopicLevel:
    """What one topic holds: `length` entries from `first_id` to `last_id`, and who reads them."""

    topic: str
    length: int
    first_id: str | None
    last_id: str | None
    groups: tuple[GroupLevel, ...]


class Reservoir:
    """Topics in one Redis.

    client       a redis-py client that returns bytes
    compression  of frames: None, 'lz4' or 'zstd'
    """

    def __init__(self, client: redis.Redis, *, compression: str | None = None) -> None:
        self.client: Any = client  # redis-py types replies for all protocols and decodings at once
        self.compression = compression
        self._append = client.register_script(_APPEND)

    @classmethod
    def from_url(cls, url: str | None = None, *, compression: str | None = None) -> Self:
        """Return the reservoir at `url`, by default at the address the settings name."""
        return cls(connect(url or redis_url()), compression=compression)

    def push(self, topic: str, fields: Mapping[str, Any], *, keep: int | None = None) -> str:
        """Append one entry and return its id. Exactly once, also when the reply is lost and it is sent again.

        keep      trim the topic to about this many of its newest entries
        raises    EncodeError: nothing was pushed; SettingsError: no such name for a topic
        """
        return self.push_many(topic, [fields], keep=keep)[0]

    def push_many(self, topic: str, entries: Iterable[Mapping[str, Any]], *, keep: int | None = None) -> list[str]:
        """Append entries in order, all or none, and return their ids. Exactly once, as `push`."""
        ids = self.append(topic, self.encode(entries), record=f"sluice:push:{uuid.uuid4().hex}", keep=keep)
        assert ids is not None  # nothing was expected of the record
        return ids

    def encode(self, entries: Iterable[Mapping[str, Any]]) -> list[dict[bytes, bytes]]:
        """Return the entries as bytes. Raises EncodeError, before anything was pushed."""
        encoded = [codec.encode_fields(fields, compression=self.compression) for fields in entries]
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
        keep: int | None = None,
        ttl_ms: int = APPEND_TTL_MS,
    ) -> list[str] | None:
        """Append encoded entries once for all appends of the same `record`, and return their ids.

        record    the key that remembers the append, with a TTL; sent again, the first append's ids come back
        field     where in the record, if it is a hash that remembers several appends
        expected  append only if the record holds this; None is returned where it does not
        fence     append only if that consumer was not taken for dead; None is returned if it was
        """
        if keep is not None and keep < 1:
            msg = f"keep: expected a number of entries above zero, got {keep}"
            raise SettingsError(msg)
        values: list[bytes | int] = []
        for fields in encoded:
            values.append(2 * len(fields))
            for name, data in fields.items():
                values += (name, data)
        if not values:
            return []
        keys = [check_topic(topic), record, *([fence.lease] if fence else [])]
        told = [expected, ttl_ms, keep or 0, field, fence.token if fence else ""]
        joined = self._append(keys=keys, args=[*told, *values])
        return None if joined is None else joined.decode().split(" ")

    def peek(self, topic: str, n: int = 1) -> list[Entry | PoisonEntryError]:
        """Return the newest `n` entries, oldest first; one that cannot be decoded as the error that says why."""
        found = self.client.xrevrange(check_topic(topic, derived=True), count=n)
        return [decoded(topic, id_.decode(), raw) for id_, raw in reversed(found)]

    def topics(self) -> list[str]:
        """Return the names of all topics, sorted; those of dead letters too."""
        keys = {key.decode(errors="replace") for key in self.client.scan_iter(_type="STREAM", count=1000)}
        return sorted(key for key in keys if not key.startswith("sluice:"))

    def levels(self) -> list[TopicLevel]:
        """Return what every topic holds and how far each of its groups has come."""
        return [self._level(topic) for topic in self.topics() if ":" not in topic]

    def _level(self, topic: str) -> TopicLevel:
        info = self.client.xinfo_stream(topic)
        first, last = info["first-entry"], info["last-entry"]
        return TopicLevel(
            topic=topic,
            length=info["length"],
            first_id=first[0].decode() if first else None,
            last_id=last[0].decode() if last else None,
            groups=tuple(
                GroupLevel(
                    name=(name := group["name"].decode()),
                    consumers=group["consumers"],
                    pending=group["pending"],
                    # Redis 6.2 does not say; 7 says nil when it has lost count.
                    lag=0 if group["last-delivered-id"] == info["last-generated-id"] else group.get("lag"),
                    dead=self.client.xlen(dead_topic(topic, name)),
                )
                for group in self.client.xinfo_groups(topic)
            ),
        )


def decoded(topic: str, id: str, raw: Mapping[bytes, bytes], *, deliveries: int = 1) -> Entry | PoisonEntryError:  # noqa: A002 - the field's own name
    """Return the entry, or the error that says which of its fields cannot be decoded, and why."""
    try:
        return Entry(codec.decode_fields(raw), topic=topic, id=id, deliveries=deliveries)
    except PoisonEntryError as error:
        return PoisonEntryError(f"topic {topic!r} entry {id}: {error}")
