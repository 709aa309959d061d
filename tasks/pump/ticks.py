"""The tick grid, and the ownership of ticks.

Tick n of a beat is at n * every on the wall clock. Runs of one inlet overlap when one relieves the other, and two
workers may run the same inlet. Scripts decide on the beat's state in Redis which run owns which tick, and that each is
pushed at most once.

The older run continues until the newcomer claims its first tick, so a newcomer that dies before that costs nothing. The last
claimed tick is kept: when a clock steps back, or differs between two workers, claimed ticks are not claimed again, and
a run waits until its clock has passed them. No tick is claimed that is far ahead of Redis' own clock, because it would make
all other runs wait for as long.
"""

import dataclasses
import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal

import redis

from tasks.errors import SettingsError
from tasks.reservoir import Reservoir
from tasks.reservoir.cursors import CursorMove, CursorStore
from tasks.reservoir.entry import with_time
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import alive_key, beat_key, open_claims, tick_record
from tasks.reservoir.lua import load
from tasks.reservoir.partitions import Partitioning
from tasks.reservoir.refusals import explained
from tasks.reservoir.topic_names import check_topic

__all__ = ["BEAT_TTL_MS", "MAX_AHEAD", "MAX_SKEW", "Beat", "Claim", "digest", "is_far_ahead", "tick_at", "time_of"]

Claim = Literal["claimed", "yield", "relieved", "taken", "ahead", "unknown", "refused", "returned"]

_START = load(__file__, "start_run")
_CLAIM = load(__file__, "claim_tick")
_END = load(__file__, "end_run")
_EARLIER = load(__file__, "earlier_claims")
_COUNT = load(__file__, "count_run")
_UNCLAIM = load(__file__, "unclaim_tick")


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+>")
# A newcomer is preferred for its first ticks only: if it died after its start, it must not slow the older run down.
_PREFERRED = 3
BEAT_TTL_MS = 7 * 86_400_000
_CLAIM_TTL_MS = 86_400_000  # a pump call may take as long
_PUSHED_TTL_MS = 600_000  # longer than any client repeats a push
_ALIVE_TTL_MS = 5_000
# How long the beat remembers what a run has added to its counts: longer than any run lasts.
_COUNTED_US = 3 * 86_400_000_000
# Seconds by which a tick may be ahead of Redis' clock: beyond, it would make other runs wait.
MAX_AHEAD = 300.0
# Seconds by which two clocks may differ before the difference is reported.
MAX_SKEW = 1.0


def tick_at(now: float, every: float) -> int:
    """Return the tick that is current at `now` (seconds since the epoch): the last one that has begun.

    >>> tick_at(10.2, 0.5)
    20
    """
    tick = math.floor(now / every)
    # The quotient is rounded, both ways: 0.3 / 0.1 is 2.999..., and 1.9 / 0.02 is 95 although 95 * 0.02 is above 1.9.
    if time_of(tick, every) > now:
        return tick - 1
    return tick + 1 if time_of(tick + 1, every) <= now else tick


def time_of(tick: int, every: float) -> float:
    """Return when a tick begins, in seconds since the epoch.

    >>> time_of(20, 0.5)
    10.0
    """
    return tick * every


def is_far_ahead(tick: int, every: float, now: float) -> bool:
    """Return whether a tick is further ahead of the clock than clocks that agree allow."""
    return time_of(tick, every) - now > every + MAX_SKEW


def _as_json(value: Any) -> Any:
    """Return a JSON form of a parameter that JSON lacks, equal in every process, independent of the hash seed."""
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(one, sort_keys=True, default=_as_json) for one in value)
    if hasattr(value, "model_dump"):  # a pydantic model
        return [type(value).__name__, value.model_dump()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}]
    text = repr(value)
    if _ADDRESS.search(text):
        msg = (
            f"parameters: expected values whose repr is the same in all runs, because they identify the beat; got {text}; "
            "give its class a __repr__ of its values, or make it a dataclass"
        )
        raise SettingsError(msg)
    return text


def digest(value: Any) -> str:
    """Return the same text for equal values in every process. Raises SettingsError, see `Beat`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_as_json).encode()).hexdigest()[:16]


class Beat:
    """The ticks of one inlet: claims them for a run, and pushes the entries of each.

    One thread at a time uses it: the run's before and after its pusher lives, the pusher's in between.

    parameters   the pump's arguments: two different sets are two beats. Raises SettingsError for objects that only their
                 address distinguishes
    keep         as in `Reservoir.push`
    by           how the topic is partitioned, if it is
    fresh_within seconds within which the inlet has to push something newer, or else raises an alarm

    remembers    whether the inlet has a cursor

    cursor       the inlet's cursor, which does not depend on `every`; None if it has none
    skew         seconds by which this run's clock was ahead of Redis' at its start, without the time that the reply may have taken
    last         the last claimed tick, as of the last claim that found its tick 'taken'
    unattended   number of ticks before this run's first that no run had claimed or counted; None until its first claim
    raises       redis.ResponseError, with the key concerned, if Redis refuses a command permanently
    """

    def __init__(
        self,
        reservoir: Reservoir,
        topic: str,
        inlet: str,
        *,
        every: float,
        parameters: Mapping[str, Any] | None = None,
        keep: int | str | Keep | None = None,
        by: Partitioning | None = None,
        fresh_within: float | None = None,
        remembers: bool = False,
    ) -> None:
        self.topic = check_topic(topic)
        self.every = every
        self.skew = 0.0
        self.last = 0
        self.unattended: int | None = None
        self._first = 0
        self.reservoir = reservoir
        self.by = by
        self._keep = keep
        self._fresh_within = fresh_within
        self.key = beat_key(f"{inlet}:{digest([topic, inlet, every, parameters or {}])}")
        known = f"{inlet}:{digest([topic, inlet, parameters or {}])}"
        self.cursor = CursorStore(reservoir.client, known) if remembers else None
        self._token = "0"  # noqa: S105 - a number that grows
        self._start = _START.on(reservoir.client)
        self._claim = _CLAIM.on(reservoir.client)
        self._earlier = _EARLIER.on(reservoir.client)
        self._end = _END.on(reservoir.client)
        self._count = _COUNT.on(reservoir.client)
        self._unclaim = _UNCLAIM.on(reservoir.client)

    def start(self, now: float, *, catch_up: float = 0.0) -> int:
        """Announce this run as the newest, and return the first tick to claim. The current run continues until then.

        catch_up   begin with the first tick of the last so many seconds that no run has claimed or counted
        """
        first = tick_at(now, self.every) + 1
        if catch_up:
            self._unclaim_lost()
            known = [int(tick) for tick in self.reservoir.client.hmget(self.key, "last", "ended") if tick is not None]
            if known:
                first = min(first, max(max(known) + 1, tick_at(now - catch_up, self.every) + 1))
        asked = time.monotonic()
        with self._explaining("no tick was claimed"):
            token, microseconds = self._start(beat=self.key, first_tick=first, ttl_ms=BEAT_TTL_MS)
        self._token = token.decode()
        self._first = first
        # Redis read its clock at some moment between the request and the reply.
        least = now - int(microseconds) / 1e6
        self.skew = max(least, min(0.0, least + time.monotonic() - asked))
        return first

    def give_back(self, tick: int) -> bool:
        """Give a claimed tick back, for which nothing was pushed; return False if a later one is claimed already."""
        return self._unclaimed(tick, self._token, is_own=True)

    def _unclaim_lost(self) -> None:
        """Give back the last claimed ticks if the runs that claimed them are dead and have pushed nothing."""
        open_ = {int(tick): by.decode() for tick, by in self.reservoir.client.hgetall(self._open).items()}
        for tick in sorted(open_, reverse=True):
            if not self._unclaimed(tick, open_[tick], is_own=False):
                return

    def _unclaimed(self, tick: int, token: str, *, is_own: bool) -> bool:
        with self._explaining(f"tick {tick} was not given back", tick):
            answer = self._unclaim(
                beat=self.key,
                open_claims=self._open,
                record=self._record(tick),
                sign_of_life=alive_key(self.key, token),
                tick=tick,
                token=token,
                is_own=int(is_own),
            )
        return bool(answer)

    def claim(self, tick: int, *, insist: bool = False, skip: bool = False) -> Claim:
        """Claim a tick for this run; return 'claimed', or why it cannot have it.

        insist     claim even if a newer run is about to
        skip       nothing will be pushed for the tick: it is only claimed

        relieved   a newer run has claimed: it owns all later ticks
        taken      this tick or a later one, `last`, has been claimed; also if this machine's clock is behind
        ahead      the tick is more than MAX_AHEAD seconds ahead of Redis' clock
        yield      a newer run is about to claim it; if it does not, claim again and `insist`
        unknown    Redis has lost the beat: `start` again
        refused    never returned; a run notes it for a claim that raised
        returned   never returned; a run notes it for a claim that it has given back
        """
        with self._explaining(f"tick {tick} was not claimed", tick):
            reply = self._claim(
                beat=self.key,
                open_claims=self._open,
                record=self._record(tick),
                sign_of_life=self._alive,
                token=self._token,
                tick=tick,
                claim_ttl_ms=_CLAIM_TTL_MS,
                beat_ttl_ms=BEAT_TTL_MS,
                alive_ttl_ms=_ALIVE_TTL_MS,
                preferred=0 if insist else _PREFERRED,
                begins_ms=round(time_of(tick, self.every) * 1000),
                max_ahead_ms=round(MAX_AHEAD * 1000),
                first_tick=self._first,
                is_skipped=int(skip),
            )
        answer, _, number = reply.decode().partition(" ")
        if answer == "taken":
            self.last = int(number)
        elif answer == "claimed" and self.unattended is None:
            self.unattended = int(number)
        return answer

    def is_kept(self, now: float, *, within: float) -> bool:
        """Return whether any run has claimed a tick of the last `within` seconds."""
        last = self.reservoir.client.hget(self.key, "last")
        return last is not None and time_of(int(last), self.every) > now - within

    def before(self, tick: int, *, wait: bool = True) -> tuple[int, int]:
        """Return the number of earlier runs' claims to wait for, and of those that are lost because their run is dead.

        wait    False: all these claims are lost, even if their runs are alive
        """
        with self._explaining(f"tick {tick} was not pushed", tick):
            # `tick` is claimed, and no tick before it can be claimed any more: others are only done, or lost.
            open_ = {int(at): by.decode() for at, by in self.reservoir.client.hgetall(self._open).items()}
            others = {at: by for at, by in open_.items() if by != self._token and at < tick}
            if not others:
                return 0, 0
            alive, lost = self._earlier(
                open_claims=self._open,
                records=[tick_record(self.key, at) for at in others],
                signs_of_life=[alive_key(self.key, by) for by in others.values()],
                waits=int(wait),
                ticks=list(others),
                tokens=list(others.values()),
            )
        return alive, lost

    def push(
        self, tick: int, encoded: Iterable[Mapping[bytes, bytes]], *, move: CursorMove | None = None
    ) -> list[str] | None:
        """Append the entries of a claimed tick, once, and return their ids; None if this run does not own the claim.

        Their event time is the time of the tick.

        move    move the cursor with them; None is returned, and nothing appended, if its version is another than expected
        """
        return self.reservoir.append(
            self.topic,
            [with_time(fields, round(time_of(tick, self.every) * 1000)) for fields in encoded],
            record=self._record(tick),
            expected=self._mine,
            move=move,
            keep=self._keep,
            ttl_ms=_PUSHED_TTL_MS,
            by=self.by,
        )

    def move(self, tick: int, move: CursorMove) -> bool:
        """Move the cursor for a claimed tick without entries; return False if this run does not own the claim or the version."""
        assert self.cursor is not None
        return self.cursor.move(move, self.topic, record=self._record(tick), expected=self._mine)

    def done(self, tick: int, *, pushed: bool) -> None:
        """End a tick's claim, so that no run waits for it; without a push, delete its record."""
        with self._explaining(f"the claim of tick {tick} was not given back", tick):
            if not pushed:
                self.reservoir.client.delete(self._record(tick))
            self.reservoir.client.hdel(self._open, str(tick))

    def live(self) -> None:
        """Renew this run's sign of life, so that its successor waits for the ticks that it still pumps."""
        with self._explaining("this run could not renew its sign of life"):
            self.reservoir.client.set(self._alive, "1", px=_ALIVE_TTL_MS)

    def end(self, tick: int) -> None:
        """Note that this run has counted every tick up to this one, so that the next run counts the later ones."""
        gap = self._end(beat=self.key, token=self._token, last_tick=tick, first_tick=self._first)
        if self.unattended is None:
            self.unattended = gap

    def count(self, totals: Mapping[str, int], *, run: int | None = None) -> None:
        """Add what this run has counted to the beat's counts, which outlast it; `totals` are all of its counts so far.

        run    microseconds since the epoch that identify the run; by default its token
        """
        token = self._token if run is None else str(run)
        about = {"topic": self.topic, "every": repr(self.every)}
        self._count(
            beat=self.key,
            run=token,
            forget_before=int(token) - _COUNTED_US,
            ttl_ms=BEAT_TTL_MS,
            fresh_within=repr(self._fresh_within) if self._fresh_within else "",
            about=list(chain(*about.items())),
            counts=list(chain(*totals.items())),
        )

    def retire(self) -> None:
        """Expect no more entries, because the inlet was paused, changed or removed; its next run expects them again."""
        self._fresh_within = None
        self.reservoir.client.hdel(self.key, "fresh_within", "fresh_since")

    @contextmanager
    def _explaining(self, what: str, tick: int | None = None) -> Iterator[None]:
        """Add the key concerned to a refusal of Redis."""
        try:
            yield
        except redis.ResponseError as error:
            keys = {self.key: "hash", self._open: "hash", self._alive: "string"}
            if tick is not None:
                keys[self._record(tick)] = "string"
            raise explained(error, self.reservoir.client, keys, what=f"topic {self.topic!r}: {what}") from error

    @property
    def _open(self) -> str:
        return open_claims(self.key)

    @property
    def _alive(self) -> str:
        return alive_key(self.key, self._token)

    @property
    def _mine(self) -> str:
        """The record of a tick that this run has claimed."""
        return f"claimed:{self._token}"

    def _record(self, tick: int) -> str:
        return tick_record(self.key, tick)
