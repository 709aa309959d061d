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

from tasks.checks import check_topic
from tasks.errors import SettingsError
from tasks.reservoir import Reservoir
from tasks.reservoir.keep import Keep
from tasks.reservoir.keys import alive_key, beat_key, open_claims, tick_record
from tasks.reservoir.refusals import explained
from tasks.reservoir.scripts import ATTEMPT

__all__ = ["BEAT_TTL_MS", "MAX_AHEAD", "MAX_SKEW", "Beat", "Claim", "digest", "is_far_ahead", "tick_at", "time_of"]

Claim = Literal["claimed", "yield", "relieved", "taken", "ahead", "unknown", "refused"]

# KEYS: the beat. ARGV: the tick from which the newcomer is preferred, TTL in ms. Returns the newcomer's token, which is a
# time, so that tokens increase even after a flush; and the time in microseconds. The older run continues to claim until
# the newcomer claims.
_START = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local token = math.max(tonumber(redis.call('HGET', KEYS[1], 'newest') or '0') + 1, now)
token = string.format('%.0f', token)
redis.call('HSET', KEYS[1], 'newest', token, 'from', ARGV[1])
-- Ticks are counted from the first run's first tick.
local last, ended = redis.call('HGET', KEYS[1], 'last'), redis.call('HGET', KEYS[1], 'ended')
if not last and not ended then redis.call('HSET', KEYS[1], 'ended', ARGV[1] - 1) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {token, string.format('%.0f', now)}
"""

# KEYS: the beat, its claims in flight, the tick's record, the run's sign of life. ARGV: token, tick, TTL of claims in
# ms, TTL of the beat in ms, TTL of the sign of life in ms, number of ticks for which a newcomer is preferred (0: none),
# the tick's time and how far ahead it may be, both in ms, the run's first tick, 1 if nothing will be pushed for this tick.
# Returns the result of `Beat.claim`; after 'taken' the last claimed tick, after 'claimed' the number of ticks before the
# run's first that no run had claimed or counted.
_CLAIM = (
    ATTEMPT
    + """
local token, tick = tonumber(ARGV[1]), tonumber(ARGV[2])
local newest = tonumber(redis.call('HGET', KEYS[1], 'newest') or '0')
if newest < token then return 'unknown' end
local mine = 'claimed:' .. ARGV[1]
local active = tonumber(redis.call('HGET', KEYS[1], 'active') or '0')
local last = redis.call('HGET', KEYS[1], 'last')
-- A run claims a tick once: if this run owns it already, the reply was lost.
local is_again = redis.call('GET', KEYS[3]) == mine or (ARGV[10] == '1' and active == token and last == ARGV[2])
if is_again then
  local whose, gap = string.match(redis.call('HGET', KEYS[1], 'gap') or '', '^(%d+) (%d+)$')
  return 'claimed ' .. (whose == ARGV[1] and gap or '0')
end
if active > token then return 'relieved' end
if last and tick <= tonumber(last) then return 'taken ' .. last end
local time = redis.call('TIME')
if tonumber(ARGV[7]) > time[1] * 1000 + time[2] / 1000 + tonumber(ARGV[8]) then return 'ahead' end
local from = tonumber(redis.call('HGET', KEYS[1], 'from') or '0')
if newest > token and tick >= from and tick < from + tonumber(ARGV[6]) then return 'yield' end
return attempt(function()
  local gap = 0
  if active < token then
    local ended = redis.call('HGET', KEYS[1], 'ended')
    local counted = math.max(tonumber(last or '0'), tonumber(ended or '0'))
    gap = math.max(0, ARGV[9] - 1 - counted)
    redis.call('HSET', KEYS[1], 'gap', string.format('%s %.0f', ARGV[1], gap))
  end
  if ARGV[10] == '0' then
    redis.call('SET', KEYS[3], mine, 'PX', ARGV[3])
    redis.call('HSET', KEYS[2], ARGV[2], ARGV[1])
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
    redis.call('SET', KEYS[4], '1', 'PX', ARGV[5])
  end
  redis.call('HSET', KEYS[1], 'active', ARGV[1], 'last', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return 'claimed ' .. string.format('%.0f', gap)
end, function()
  redis.call('DEL', KEYS[3])
  redis.call('HDEL', KEYS[2], ARGV[2])
end)
"""
)

# KEYS: the beat. ARGV: token, the last tick that the run has counted, its first. A later run that has claimed counts for
# itself. Returns the number of ticks before the run's first that no run had claimed or counted, if it has claimed none.
_END = """
local active = tonumber(redis.call('HGET', KEYS[1], 'active') or '0')
local ended = tonumber(redis.call('HGET', KEYS[1], 'ended') or '0')
if active > tonumber(ARGV[1]) then return 0 end
local gap = 0
if active < tonumber(ARGV[1]) then
  gap = math.max(0, ARGV[3] - 1 - math.max(ended, tonumber(redis.call('HGET', KEYS[1], 'last') or '0')))
end
if ended < tonumber(ARGV[2]) then redis.call('HSET', KEYS[1], 'ended', ARGV[2]) end
return gap
"""

# KEYS: the claims in flight, then for each claim to check its record and its run's sign of life. ARGV: whether to wait for
# live runs, then for each claim its tick and its token. Returns the number of claims that are still to be waited for, and
# the number that it has taken away because their run is dead: a push for one of those is refused from then on, so that it
# cannot come out of order.
_BEFORE = """
local alive, lost = 0, 0
for i = 2, #ARGV, 2 do
  local record, sign, tick, token = KEYS[i], KEYS[i + 1], ARGV[i], ARGV[i + 1]
  if redis.call('HGET', KEYS[1], tick) == token then
    if redis.call('GET', record) ~= 'claimed:' .. token then
      redis.call('HDEL', KEYS[1], tick)
    elseif ARGV[1] == '1' and redis.call('EXISTS', sign) == 1 then
      alive = alive + 1
    else
      redis.call('DEL', record)
      redis.call('HDEL', KEYS[1], tick)
      lost = lost + 1
    end
  end
end
return {alive, lost}
"""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+>")
# A newcomer is preferred for its first ticks only: if it died after its start, it must not slow the older run down.
_PREFERRED = 3
BEAT_TTL_MS = 7 * 86_400_000
_CLAIM_TTL_MS = 86_400_000  # a pump call may take as long
_PUSHED_TTL_MS = 600_000  # longer than any client repeats a push
_ALIVE_TTL_MS = 5_000
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
    """Return a JSON value for a parameter that is none, equal in every process, whatever its hash seed."""
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
    ) -> None:
        self.topic = check_topic(topic)
        self.every = every
        self.skew = 0.0
        self.last = 0
        self.unattended: int | None = None
        self._first = 0
        self.reservoir = reservoir
        self._keep = keep
        self.key = beat_key(f"{inlet}:{digest([topic, inlet, every, parameters or {}])}")
        self._token = "0"  # noqa: S105 - a number that grows
        self._start = reservoir.client.register_script(_START)
        self._claim = reservoir.client.register_script(_CLAIM)
        self._before = reservoir.client.register_script(_BEFORE)
        self._end = reservoir.client.register_script(_END)

    def start(self, now: float) -> int:
        """Announce this run as the newest, and return the first tick to claim. The current run continues until then."""
        first = tick_at(now, self.every) + 1
        asked = time.monotonic()
        with self._explaining("no tick was claimed"):
            token, microseconds = self._start(keys=[self.key], args=[first, BEAT_TTL_MS])
        self._token = token.decode()
        self._first = first
        # Redis read its clock at some moment between the request and the reply.
        least = now - int(microseconds) / 1e6
        self.skew = max(least, min(0.0, least + time.monotonic() - asked))
        return first

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
        """
        keys = [self.key, self._open, self._record(tick), self._alive]
        preferred = 0 if insist else _PREFERRED
        begins = round(time_of(tick, self.every) * 1000)
        args = [
            self._token,
            tick,
            _CLAIM_TTL_MS,
            BEAT_TTL_MS,
            _ALIVE_TTL_MS,
            preferred,
            begins,
            round(MAX_AHEAD * 1000),
            self._first,
            int(skip),
        ]
        with self._explaining(f"tick {tick} was not claimed", tick):
            answer, _, number = self._claim(keys=keys, args=args).decode().partition(" ")
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

        wait    False: all of them are lost, even if their runs are alive
        """
        with self._explaining(f"tick {tick} was not pushed", tick):
            # `tick` is claimed, and no tick before it can be claimed any more: others are only done, or lost.
            open_ = {int(at): by.decode() for at, by in self.reservoir.client.hgetall(self._open).items()}
            others = {at: by for at, by in open_.items() if by != self._token and at < tick}
            if not others:
                return 0, 0
            keys = [(tick_record(self.key, at), alive_key(self.key, by)) for at, by in others.items()]
            alive, lost = self._before(
                keys=[self._open, *chain.from_iterable(keys)],
                args=[int(wait), *chain.from_iterable(others.items())],
            )
        return alive, lost

    def push(self, tick: int, encoded: Iterable[Mapping[bytes, bytes]]) -> list[str] | None:
        """Append the entries of a claimed tick, once, and return their ids; None if this run does not own the claim."""
        return self.reservoir.append(
            self.topic,
            encoded,
            record=self._record(tick),
            expected=f"claimed:{self._token}",
            keep=self._keep,
            ttl_ms=_PUSHED_TTL_MS,
        )

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
        gap = self._end(keys=[self.key], args=[self._token, tick, self._first])
        if self.unattended is None:
            self.unattended = gap

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

    def _record(self, tick: int) -> str:
        return tick_record(self.key, tick)
