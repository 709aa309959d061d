"""The tick grid, and who owns a tick.

Tick n of a beat is at n * every on the wall clock. Runs of one inlet overlap when one relieves the other, and two
workers may run the same: a beat's state in Redis decides, in scripts, which run has which tick, and that each is
pushed at most once.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from tasks.keep import Keep
from tasks.reservoir import Reservoir
from tasks.settings import check_topic

__all__ = ["Beat", "Claim", "tick_at", "time_of"]

Claim = Literal["claimed", "early", "relieved", "taken", "unknown"]

# KEYS: the beat. ARGV: the current tick, how many ticks ahead a newcomer begins where another run is pumping, TTL in ms.
# Returns the newcomer's token and the tick from which it owns. 'from:N' is the first tick of token N; run N stops
# where N+1 begins.
_START = """
local token = redis.call('HINCRBY', KEYS[1], 'token', 1)
local last = tonumber(redis.call('HGET', KEYS[1], 'last') or '-1')
local ahead = 1
if last >= tonumber(ARGV[1]) - tonumber(ARGV[2]) then ahead = tonumber(ARGV[2]) end
local from = tonumber(ARGV[1]) + ahead
redis.call('HSET', KEYS[1], 'from:' .. token, from)
redis.call('HDEL', KEYS[1], 'from:' .. (token - 16))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {token, from}
"""

# KEYS: the beat, the tick's record. ARGV: token, tick, TTL of the record in ms, TTL of the beat in ms.
_CLAIM = """
local from = redis.call('HGET', KEYS[1], 'from:' .. ARGV[1])
local next = redis.call('HGET', KEYS[1], 'from:' .. (ARGV[1] + 1))
if not from then return 'unknown' end
if next and tonumber(ARGV[2]) >= tonumber(next) then return 'relieved' end
if tonumber(ARGV[2]) < tonumber(from) then return 'early' end
local mine = 'claimed:' .. ARGV[1]
-- A run claims a tick once: if it is this run's already, the answer to that was lost.
if redis.call('GET', KEYS[2]) == mine then return 'claimed' end
if not redis.call('SET', KEYS[2], mine, 'NX', 'PX', ARGV[3]) then return 'taken' end
redis.call('HSET', KEYS[1], 'last', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 'claimed'
"""

# A newcomer begins this many ticks ahead, so that neither a slow claim nor a difference of clocks costs a tick.
_AHEAD = 2
_BEAT_TTL_MS = 86_400_000
_TICK_TTL_MS = 600_000


def tick_at(now: float, every: float) -> int:
    """Return the tick that is current at `now` (seconds since the epoch): the last that has begun.

    >>> tick_at(10.2, 0.5)
    20
    """
    tick = math.floor(now / every)
    # 0.3 / 0.1 is 2.999...: a tick that begins at `now` has begun.
    return tick + 1 if time_of(tick + 1, every) <= now else tick


def time_of(tick: int, every: float) -> float:
    """Return when a tick begins, in seconds since the epoch.

    >>> time_of(20, 0.5)
    10.0
    """
    return tick * every


class Beat:
    """One inlet's ticks: which run claims them, and the push of what was pumped for them.

    parameters   what the pump is called with: two different sets are two beats
    keep         as `Reservoir.push`
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
        self._reservoir = reservoir
        self._keep = keep
        what = json.dumps([topic, inlet, every, parameters or {}], sort_keys=True, default=repr)
        self.key = f"sluice:beat:{inlet}:{hashlib.sha256(what.encode()).hexdigest()[:16]}"
        self._token = 0
        self._start = reservoir.client.register_script(_START)
        self._claim = reservoir.client.register_script(_CLAIM)

    def start(self, now: float) -> int:
        """Take the beat over from whoever has it, and return the tick from which it is this run's."""
        self._token, first = self._start(keys=[self.key], args=[tick_at(now, self.every), _AHEAD, _BEAT_TTL_MS])
        return first

    def claim(self, tick: int) -> Claim:
        """Take a tick: 'claimed' by this run; else why not. 'unknown': Redis has lost the beat, `start` again."""
        answer = self._claim(keys=[self.key, self._record(tick)], args=[self._token, tick, _TICK_TTL_MS, _BEAT_TTL_MS])
        return answer.decode()

    def push(self, tick: int, entries: Iterable[Mapping[str, Any]]) -> list[str] | None:
        """Append what was pumped for a claimed tick, once, and return the ids; None if the claim is not this run's."""
        return self._reservoir.append(
            self.topic,
            self._reservoir.encode(entries),
            record=self._record(tick),
            expected=f"claimed:{self._token}",
            keep=self._keep,
            ttl_ms=_TICK_TTL_MS,
        )

    def _record(self, tick: int) -> str:
        return f"{self.key}:{tick}"
