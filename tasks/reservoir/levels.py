"""Levels: the size of topics and the lag of their groups, which Redis itself often does not know.

Redis 6.2 has no lag. From the first deletion or SETID on, Redis 7.0 replies nil until the group has read everything; after
more deletions than there were unread entries, it replies a wrong number.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis

from tasks.base.ids import id_numbers
from tasks.base.quantities import in_time
from tasks.checks import is_group
from tasks.errors import UnreadableTopicError
from tasks.reservoir.groups import group_name
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import dead_topic, retrying_key, topic_keys
from tasks.reservoir.lua import load
from tasks.reservoir.retrying import retrying_by_group
from tasks.reservoir.unreadable import named

__all__ = ["GroupLevel", "Levels", "TopicLevel"]

_LEVEL = load(__file__, "level")


@dataclass(frozen=True, slots=True)
class GroupLevel:
    """The state of one consumer group on one topic.

    consumers        on a partitioned topic, the most on one partition
    lag              entries that the group has not read; None if counting them would cost too much
    behind           age of the oldest unread entry in seconds; 0 if there is none
    oldest_pending   age of the oldest pending entry in seconds
    dead             entries in the group's topic of dead letters
    dead_dropped     dead letters that were dropped by its limits
    spilled          entries dropped before the group had read them
    done             entries acknowledged since counting began
    failed           entries that became dead letters since counting began
    retrying         failed calls that its runs try again, as of some seconds ago
    is_ahead         the position lies in the future: entries pushed until then are skipped and not counted
    is_forgotten     the group has not read for so long that it no longer retains entries
    """

    name: str
    consumers: int
    pending: int
    lag: int | None
    dead: int
    behind: float = 0.0
    oldest_pending: float | None = None
    dead_dropped: int = 0
    spilled: int = 0
    done: int = 0
    failed: int = 0
    retrying: int = 0
    is_forgotten: bool = False
    is_ahead: bool = False

    @property
    def remark(self) -> str:
        """The text that tables show behind the group's name; may be ''."""
        return " (ahead of its topic)" * self.is_ahead + " (forgotten)" * self.is_forgotten

    @property
    def behind_by(self) -> str:
        """The text that tables show for `behind`: '-' if nothing is unread."""
        return in_time(self.behind) if self.lag or self.behind else "-"


@dataclass(frozen=True, slots=True)
class TopicLevel:
    """The state of one topic: `length` entries from `first_id` to `last_id`, and its groups.

    bytes        approximate size in Redis' memory; None if unknown
    rate         entries per second over about the last minute; None if appends were not counted
    age          age of the newest entry in seconds; None if there is none
    pushed       entries appended since counting began, and `pushed_bytes`; None if appends were not counted
    keep         its limits; None if none are declared
    unreadable   why it cannot be read, and then all other values are empty; '' if it can
    partitions   the levels of its partitions, if it has any
    """

    topic: str
    length: int
    first_id: str | None
    last_id: str | None
    groups: tuple[GroupLevel, ...]
    bytes: int | None = None
    rate: float | None = None
    age: float | None = None
    pushed: int | None = None
    pushed_bytes: int | None = None
    keep: Keep | None = None
    unreadable: str = ""
    partitions: tuple["TopicLevel", ...] = ()


class Levels:
    """Reads the levels of topics without transferring entries."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._level = _LEVEL.on(client)

    def of(self, topic: str) -> TopicLevel | None:
        """Return the level of one topic, or None if it does not exist.

        An unreadable topic is returned with the reason, so that it does not hide other topics.
        """
        try:
            with named(self._client, topic):
                return self._read(topic)
        except UnreadableTopicError as error:
            return TopicLevel(topic, length=0, first_id=None, last_id=None, groups=(), unreadable=str(error))

    def of_all(self, topics: Sequence[str]) -> list[TopicLevel]:
        """Return the levels of those topics that exist, read in two round trips.

        `bytes` are those that were appended, without the memory that Redis adds, except in topics of other programs: the memory
        of a topic takes Redis longer the more entries it has.
        """
        with self._client.pipeline(transaction=False) as pipe:
            for topic in topics:
                self._level.queue_on(pipe, **topic_keys(topic)._asdict())
            answers = dict(zip(topics, pipe.execute(raise_on_error=False), strict=True)) if topics else {}
        found = {topic: answer for topic, answer in answers.items() if isinstance(answer, list)}
        with self._client.pipeline(transaction=False) as pipe:
            for topic, answer in found.items():
                for raw in answer[_GROUPS:]:
                    pipe.xlen(dead_topic(topic, group_name(raw[0])))
                pipe.hgetall(retrying_key(topic))
                if int(answer[_COUNTED]) < 0:
                    pipe.memory_usage(topic)
            replies = iter(pipe.execute(raise_on_error=False)) if found else iter(())
        levels = []
        for topic, answer in answers.items():
            if answer is None:
                continue
            level = None
            if topic in found:
                letters = [next(replies) for _ in answer[_GROUPS:]]
                retrying = next(replies)
                counted = int(answer[_COUNTED])
                size = counted if counted >= 0 else next(replies)
                with suppress(TypeError, ValueError):  # odd keys, which `of` names
                    level = _topic(
                        topic, answer, map(_whole, letters), retrying, size=size if isinstance(size, int) else None
                    )
            if level := level or self.of(topic):
                levels.append(level)
        return levels

    def _read(self, topic: str) -> TopicLevel | None:
        answer = self._level(**topic_keys(topic)._asdict())
        if answer is None:
            return None
        dead = self._dead(topic, [group_name(group[0]) for group in answer[_GROUPS:]])
        retrying = None
        with suppress(redis.ResponseError):  # a key of another type hides no topic
            retrying = self._client.hgetall(retrying_key(topic))
        return _topic(topic, answer, dead, retrying, size=self._bytes(topic, int(answer[_COUNTED])))

    def _dead(self, topic: str, groups: list[str]) -> list[int]:
        """Return each group's number of dead letters; 0 for names that Sluice's groups cannot have."""
        with self._client.pipeline(transaction=False) as pipe:
            for group in filter(is_group, groups):
                pipe.xlen(dead_topic(topic, group))
            found = iter(pipe.execute())
        return [next(found) if is_group(group) else 0 for group in groups]

    def _bytes(self, topic: str, counted: int) -> int | None:
        try:
            # Sample all nodes; otherwise a single large frame among small entries would be missed.
            return self._client.memory_usage(topic, samples=0)
        except redis.ResponseError:  # fakeredis lacks the command, and a server may forbid it
            return counted if counted >= 0 else None


def _whole(reply: object) -> int:
    """Return a number that Redis replied; raise a TypeError for an error."""
    if isinstance(reply, int):
        return reply
    raise TypeError


_COUNTED, _GROUPS = 4, 10  # in the script's reply: the bytes by the samples, the first group


def _topic(topic: str, answer: list[Any], dead: Iterable[int], retrying: Any, *, size: int | None) -> TopicLevel:
    length, first, last, now, _, came, during, keep, pushed, pushed_bytes, *groups = answer
    milliseconds = int(during)
    tried = retrying_by_group(retrying, int(now))
    return TopicLevel(
        topic=topic,
        length=length,
        first_id=first.decode() or None,
        last_id=last.decode() or None,
        groups=tuple(_group(*each, tried, int(now)) for each in zip(groups, dead, strict=True)),
        bytes=size,
        rate=came * 1000 / milliseconds if milliseconds > 0 else None,
        age=_age(last, int(now)),
        pushed=int(pushed) if pushed else None,
        pushed_bytes=int(pushed_bytes) if pushed_bytes else None,
        keep=Keep.unpacked(keep.decode()) if keep else None,
    )


def _age(id_: bytes, now: int) -> float | None:
    """Return the seconds since an entry was pushed, None if there is none; not below zero, as foreign ids may be ahead."""
    return max(0.0, (now - id_numbers(id_.decode())[0]) / 1000) if id_ else None


def _group(raw: list[Any], dead: int, tried: dict[str, int], now: int) -> GroupLevel:
    name, consumers, pending, lag, oldest, dropped, spilled, seen, ahead, unread, done, failed = raw
    return GroupLevel(
        name=group_name(name),
        consumers=consumers,
        pending=pending,
        lag=lag if lag >= 0 else None,
        dead=dead,
        behind=_age(unread, now) or 0.0,
        oldest_pending=_age(oldest, now),
        dead_dropped=int(dropped),
        spilled=int(spilled),
        done=int(done),
        failed=int(failed),
        retrying=tried.get(group_name(name), 0),
        is_forgotten=seen.startswith(b"-"),
        is_ahead=bool(ahead),
    )
