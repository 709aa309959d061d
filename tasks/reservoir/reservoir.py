"""The reservoir: topics in Redis, one stream each, with appends that are made once even if they are sent again."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any, Self, cast

import redis

from tasks import codec
from tasks.base.ids import id_numbers
from tasks.base.logs import get_logger
from tasks.base.repeated_warnings import Repeated
from tasks.checks import check_choice
from tasks.codec.decoding import DEFAULT_DECODING, Decoding
from tasks.codec.limits import Budget
from tasks.codec.values import COMPRESSIONS
from tasks.errors import EncodeError, PoisonEntryError, SettingsError, TopicFullError
from tasks.reservoir.append_arguments import given_by_key, given_for, keys_of, moving, values_of
from tasks.reservoir.connection import adapted, connect
from tasks.reservoir.cursors import CursorMove
from tasks.reservoir.entry import TIME_FIELD, Entry, Part, take_out_time
from tasks.reservoir.fence import Fence
from tasks.reservoir.folding import by_topic, fold, streams_of
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import TOPIC_KEY_TYPES, derived_from, partitions_key, push_record
from tasks.reservoir.levels import Levels, TopicLevel
from tasks.reservoir.lua import Call, load
from tasks.reservoir.partitions import Partitioning, expect_same, partition_of
from tasks.reservoir.refusals import explained
from tasks.reservoir.splitting import split
from tasks.reservoir.topic_names import check_topic, is_topic
from tasks.settings import redis_url

__all__ = ["Reservoir"]

logger = get_logger(__name__)

# The space makes redis-py return the raw reply: its parser would turn fields into a dict and lose repeated names.
_XREVRANGE, _XREAD = "XREVRANGE ", "XREAD "
# Records of appends outlive all retries of a client.
APPEND_TTL_MS = 600_000
# Lua's unpack() accepts about 8,000 values; a field takes two.
MAX_FIELDS = 3_500
# Entries from this size in bytes on bypass Lua, which hashes each string byte by byte (Redis 7.0: 2 ns per byte, as long as
# the rest of a large frame's append).
LARGE = 256 * 1024

_APPEND = load(__file__, "append")
_APPEND_AND_MOVE = load(__file__, "append_and_move")
_APPEND_BY_KEY = load(__file__, "append_by_key")
_APPEND_BY_KEY_AND_MOVE = load(__file__, "append_by_key_and_move")
_MARK_END = load(__file__, "mark_end")


class Reservoir:
    """Topics in one Redis.

    client       a redis-py client that returns bytes
    compression  of frames: None, 'lz4' or 'zstd'
    raises       SettingsError: another compression
    """

    def __init__(self, client: redis.Redis, *, compression: str | None = None) -> None:
        check_choice(compression, COMPRESSIONS, name="compression")
        self.client: Any = adapted(client)  # redis-py types replies for all protocols and decodings at once
        self.compression = compression
        self._append = _APPEND.on(self.client)
        self._append_and_move = _APPEND_AND_MOVE.on(self.client)
        self._append_by_key = _APPEND_BY_KEY.on(self.client)
        self._append_by_key_and_move = _APPEND_BY_KEY_AND_MOVE.on(self.client)
        self._warn = Repeated(logger)
        self._inferred: set[str] = set()  # topics to which frames of objects were pushed
        self._may_take_back = True  # until Redis refuses it

    @classmethod
    def from_url(cls, url: str | None = None, *, compression: str | None = None) -> Self:
        """Return the reservoir at `url`; by default at the configured address."""
        return cls(connect(url or redis_url()), compression=compression)

    def push(
        self,
        topic: str,
        fields: Mapping[str, Any],
        *,
        keep: int | str | Keep | None = None,
        partitions: int | None = None,
        key: str | None = None,
    ) -> str:
        """Append one entry exactly once, even if the reply is lost and it is sent again; return its id.

        keep        limits of the topic (`Keep.of`); entries that live groups have not finished stay beyond them
        partitions  number of the topic's partitions; the entry goes to that of its field `key`. Rows of a frame go to
                    those of their column `key`, as several entries; the id of the first one is returned
        raises      EncodeError; TopicFullError; SettingsError: an invalid topic name, or another partitioning than that of the topic;
                    each time nothing was pushed
        """
        return self.push_many(topic, [fields], keep=keep, partitions=partitions, key=key)[0]

    def push_many(
        self,
        topic: str,
        entries: Iterable[Mapping[str, Any]],
        *,
        keep: int | str | Keep | None = None,
        partitions: int | None = None,
        key: str | None = None,
    ) -> list[str]:
        """Append entries in order, all or none, exactly once; return their ids. As `push`."""
        by = Partitioning.of(partitions, key)
        encoded = self.encode(entries, topic=topic, by=by)
        ids = self.append(topic, encoded, record=push_record(), keep=keep, by=by)
        assert ids is not None  # nothing was expected of the record
        return ids

    def encode(
        self, entries: Iterable[Any], *, topic: str = "", by: Partitioning | None = None
    ) -> list[dict[bytes, bytes]]:
        """Encode entries, which are mappings of fields or records such as dataclasses.

        topic     their topic, for the log
        by        the topic's partitioning, for which entries are split; the returned ones are then `Part`s
        raises    EncodeError: nothing was pushed
        """

        def log_inferred() -> None:
            if topic not in self._inferred:
                self._inferred.add(topic)
                logger.info("topic %r: frames of objects are pushed after infer_objects(); this is logged once", topic)

        def encoded(fields: Any) -> dict[bytes, bytes]:
            found = codec.encode_fields(fields, compression=self.compression, on_inferred=log_inferred)
            if len(found) > MAX_FIELDS:
                msg = f"expected an entry of at most {MAX_FIELDS} fields, got {len(found)}; nothing was pushed; put them into one DataFrame or dict"
                raise EncodeError(msg)
            return found

        if by is None:
            return [encoded(fields) for fields in entries]
        return [Part(encoded(part), n) for fields in entries for n, part in split(fields, by)]

    def append(
        self,
        topic: str,
        encoded: Iterable[Mapping[bytes, bytes]],
        *,
        record: str,
        field: bytes = b"",
        expected: str = "",
        fence: Fence | None = None,
        move: CursorMove | None = None,
        keep: int | str | Keep | None = None,
        ttl_ms: int = APPEND_TTL_MS,
        by: Partitioning | None = None,
    ) -> list[str] | None:
        """Append encoded entries once per `record`; return their ids, or None if the append is not permitted.

        record    the key that stores the ids, with a TTL; a repeated append returns them and adds nothing
        field     the field within the record, if it is a hash for several appends
        expected  append only if the record holds this value
        fence     append only if no other consumer has claimed this consumer's entries
        move      move this cursor with the append; append only if its version is the expected one
        by        how the topic is partitioned; `encode` has been given the same
        raises    TopicFullError: entries that live groups have not read fill the topic, or one of its partitions; SettingsError
        """
        entries = list(encoded)
        if not entries:
            return []
        kept = None if keep is None else Keep.of(keep)
        keys = keys_of(check_topic(topic))
        if by is not None:
            parts = cast("list[Part]", entries)
            given = given_by_key(
                topic, parts, by, record=record, field=field, expected=expected, fence=fence, keep=kept, ttl_ms=ttl_ms
            )
            return self._appended_by_key(topic, by, kept, given, move)
        given = given_for(
            keys,
            record=record,
            field=field,
            expected=expected,
            fence=fence,
            keep=kept,
            ttl_ms=ttl_ms,
            count=len(entries),
        )
        append = self._append_and_move if move else self._append
        given |= moving(move)
        size = sum(len(name) + len(data) for name, data in entries[0].items())
        try:
            # With 'wait', the script must check the limits before it appends, which a large append cannot.
            waits = kept is not None and kept.when_full == "wait"
            if len(entries) == 1 and size >= LARGE and self._may_take_back and not waits:
                joined = self._append_large(append, entries[0], {**given, "values": [0, size]})
            else:
                joined = append(**given, values=values_of(entries))
        except redis.ResponseError as error:
            types = dict(zip(keys.values(), TOPIC_KEY_TYPES, strict=True)) | {record: "hash" if field else "string"}
            if fence:
                types[fence.lease] = "string"
            if move:
                types[move.key] = "hash"
            raise explained(error, self.client, types, what=f"topic {topic!r}: nothing was pushed") from error
        if joined == 1:
            raise _full(topic, kept)
        if joined == 2:  # noqa: PLR2004 - as append.lua defines it
            msg = (
                f"topic {topic!r}: expected partitions and key with each push, because the topic is partitioned, got none; nothing was "
                "pushed; pass the same partitions and key as its other writers"
            )
            raise SettingsError(msg)
        if isinstance(joined, list):
            joined, refusal = joined
            self._may_take_back = False
            self._warn(
                f"topic {topic!r}: pushed, but Redis refuses the commands that limit the topic and that would take the entry back",
                detail=f"with {refusal.decode(errors='replace')!r}; give this user the rights that docs/redis.md lists",
            )
        return None if joined is None else joined.decode().split(" ")

    def _appended_by_key(
        self, topic: str, by: Partitioning, kept: Keep | None, given: Mapping[str, Any], move: CursorMove | None
    ) -> list[str] | None:
        append = self._append_by_key_and_move if move else self._append_by_key
        try:
            joined = append(**given, **moving(move))
        except redis.ResponseError as error:
            types = {partitions_key(topic): "hash", given["record"]: "hash" if given["field"] else "string"}
            types |= dict(zip(given["streams"], TOPIC_KEY_TYPES * len(given["streams"]), strict=False))
            types |= dict.fromkeys(given["leases"], "string") | ({move.key: "hash"} if move else {})
            raise explained(error, self.client, types, what=f"topic {topic!r}: nothing was pushed") from error
        if joined == 1:
            raise _full(topic, kept)
        if isinstance(joined, list):
            expect_same(topic, by, joined)
        return None if joined is None else joined.decode().split(" ")

    def queue_append(
        self,
        pipe: Any,
        topic: str,
        entries: Sequence[Mapping[bytes, bytes]],
        *,
        record: str,
        fence: Fence,
        keep: Keep | None,
        ttl_ms: int,
    ) -> None:
        """Put the append of encoded entries into a transaction. It is done once for all appends of the same `record`."""
        given = given_for(
            keys_of(check_topic(topic, derived=partition_of(topic) is not None)),
            record=record,
            fence=fence,
            keep=keep,
            ttl_ms=ttl_ms,
            count=len(entries),
        )
        _APPEND.queue(pipe, **given, values=values_of(entries))

    def _append_large(self, append: Call, fields: Mapping[bytes, bytes], given: Mapping[str, Any]) -> Any:
        """Append one entry with XADD, and everything else with the script, in one transaction."""
        topic, record = given["topic"], given["record"]
        with self.client.pipeline() as pipe:
            _MARK_END.queue(pipe, topic=topic, record=record)
            pipe.xadd(topic, fields)
            append.script.queue(pipe, **given)
            try:
                _, id_, answer = pipe.execute(raise_on_error=False)
            except redis.ResponseError as error:  # redis-py names the command, which is the entry's bytes
                raise _without_command(error) from None
        if isinstance(id_, redis.ResponseError):
            raise _without_command(id_) from None
        if isinstance(answer, redis.ResponseError):
            # Normally the script has taken the entry back; it has not if that was refused as well, or the script did not run.
            for undo in (lambda: self.client.xdel(topic, id_), lambda: self.client.xgroup_destroy(topic, record)):
                with suppress(redis.ResponseError):
                    undo()
            raise _without_command(answer) from None
        return answer

    def peek(self, topic: str, n: int = 1, *, decoding: Decoding = DEFAULT_DECODING) -> list[Entry | PoisonEntryError]:
        """Return the newest `n` entries, oldest first; an undecodable entry is returned as its error.

        Entries of a partitioned topic are merged by their ids; an entry's `topic` names its partition.
        """
        found: list[tuple[str, Any]] = []
        for stream in streams_of(self.client, check_topic(topic, derived=True)):
            entries = self.client.execute_command(_XREVRANGE, stream, "+", "-", "COUNT", n)
            found += [(stream, entry) for entry in reversed(entries or ())]
        return _decoded_all(_merged(found)[-n:], decoding)

    def last_ids(self, topic: str) -> dict[str, str]:
        """Return the id of the last entry of each stream of a topic, '0-0' if it has none: `follow` goes on after them."""
        streams = streams_of(self.client, check_topic(topic, derived=True))
        newest = [self.client.execute_command(_XREVRANGE, stream, "+", "-", "COUNT", 1) for stream in streams]
        return {stream: found[0][0].decode() if found else "0-0" for stream, found in zip(streams, newest, strict=True)}

    def follow(
        self,
        topic: str,
        after: str | Mapping[str, str],
        *,
        n: int,
        block_ms: int,
        decoding: Decoding = DEFAULT_DECODING,
    ) -> list[Entry | PoisonEntryError]:
        """Return the next entries, without a group; wait up to `block_ms` for the first.

        after     the id after which to read, or, for a partitioned topic, that of each partition by its name (`last_ids`): a
                  partition can get an entry whose id is smaller than one that another partition has already
        n         the most entries to return, of each partition
        """
        streams = streams_of(self.client, check_topic(topic, derived=True))
        ids = [after if isinstance(after, str) else after.get(stream, "0-0") for stream in streams]
        reply = self.client.execute_command(_XREAD, "COUNT", n, "BLOCK", block_ms, "STREAMS", *streams, *ids)
        return _decoded_all(_merged((name.decode(), entry) for name, found in reply or () for entry in found), decoding)

    def streams(self) -> list[str]:
        """Return the names of all streams that are topics or belong to one: partitions, dead letters, retries; sorted."""
        return sorted(filter(is_topic, filter(None, map(_text, self.client.scan_iter(_type="STREAM", count=1000)))))

    def topics(self) -> list[str]:
        """Return the names of all topics, sorted, with those of dead letters; omit streams with invalid names."""
        return sorted(by_topic(self.client, self.streams()))

    def levels(self) -> list[TopicLevel]:
        """Return the level of every topic; those of partitions are in the level of their topic.

        Dead letters and retries count with their group. Those without an existing group are returned as topics: they belonged
        to a deleted group, or to another program.
        """
        levels = Levels(self.client)
        names = self.streams()
        found = [level for topic in names if not derived_from(topic) and (level := levels.of(topic))]
        counted = {(level.topic, group.name) for level in found for group in level.groups}
        unreadable = {level.topic for level in found if level.unreadable}  # of whose groups nothing is known
        for topic in names:
            if (derived := derived_from(topic)) and derived[::2] not in counted and derived[0] not in unreadable:
                level = levels.of(topic)
                found += [level] if level and (level.length or level.groups or level.unreadable) else []
        return sorted(fold(self.client, found), key=attrgetter("topic"))


def _merged(entries: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return raw entries with their streams, in the order of their ids."""
    return sorted(entries, key=lambda one: id_numbers(one[1][0].decode()))


def _text(key: bytes) -> str | None:
    """Return a key as text; None if it is not UTF-8."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


def _full(topic: str, kept: Keep | None) -> TopicFullError:
    msg = (
        f"topic {topic!r} is full: expected its groups to have read all but {kept}; nothing was pushed; "
        "start the outlet that lags (`sluice status`), or let the topic spill (when_full='spill')"
    )
    return TopicFullError(msg)


def _without_command(error: redis.ResponseError) -> redis.ResponseError:
    return type(error)(str(error).rpartition(" caused error: ")[2])


def _decoded_all(found: Iterable[tuple[str, Any]], decoding: Decoding) -> list[Entry | PoisonEntryError]:
    return [_decoded(topic, id_.decode(), flat, decoding) for topic, (id_, flat) in found]


def _decoded(topic: str, id_: str, flat: list[bytes], decoding: Decoding) -> Entry | PoisonEntryError:
    if TIME_FIELD in (names := flat[::2]):  # in front of what a dead letter adds
        at = 2 * names.index(TIME_FIELD)
        flat = [*flat[:at], *flat[at + 2 :], *flat[at : at + 2]]
    time_ms = take_out_time(flat)
    return decoded(topic, id_, list(zip(flat[::2], flat[1::2], strict=True)), time_ms=time_ms, decoding=decoding)


def decoded(
    topic: str,
    id: str,  # noqa: A002 - the field's own name
    raw: Mapping[bytes, bytes] | Sequence[tuple[bytes, bytes]],
    *,
    deliveries: int = 1,
    origin: tuple[str, str] | None = None,
    time_ms: int | None = None,
    budget: Budget | None = None,
    decoding: Decoding = DEFAULT_DECODING,
) -> Entry | PoisonEntryError:
    """Decode an entry; return it, or the error that names the undecodable field and the reason."""
    try:
        fields = codec.decode_fields(raw, budget=budget, decoding=decoding)
        return Entry(fields, topic=topic, id=id, deliveries=deliveries, origin=origin, time_ms=time_ms)
    except PoisonEntryError as error:
        poison = PoisonEntryError(f"topic {topic!r} entry {id}: {error}")
        poison.id, poison.topic = id, topic
        return poison
