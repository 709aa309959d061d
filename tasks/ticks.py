"""The tick grid, and who owns a tick.

Tick n of a beat is at n * every on the wall clock. Runs of one inlet overlap when one relieves the other, and two
workers may run the same: a beat's state in Redis decides, in scripts, which run has which tick, and that each is
pushed at most once.

The older run goes on until the newcomer claims its first tick, so that one that dies before costs nothing. The last
claimed tick is kept: where a clock steps back, or differs between two workers, ticks that were claimed are not
claimed again, and a run waits until its clock has passed them. So that a clock far ahead cannot keep all others
waiting for as long, no tick is claimed that is far ahead of Redis' own clock.
"""

import dataclasses
import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from tasks.errors import SettingsError
from tasks.keep import Keep
from tasks.reservoir import Reservoir
from tasks.settings import check_topic

__all__ = ["MAX_AHEAD", "Beat", "Claim", "tick_at", "time_of"]

Claim = Literal["claimed", "yield", "relieved", "taken", "ahead", "unknown"]

# KEYS: the beat. ARGV: the tick from which the newcomer is preferred, TTL in ms. Returns the newcomer's token, a
# time, so that tokens increase even after a flush; and the time in microseconds. The older run goes on claiming until
# the newcomer claims.
_START = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local token = math.max(tonumber(redis.call('HGET', KEYS[1], 'newest') or '0') + 1, now)
token = string.format('%.0f', token)
redis.call('HSET', KEYS[1], 'newest', token, 'from', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {token, string.format('%.0f', now)}
"""

# KEYS: the beat, its claims in flight, the tick's record, the run's sign of life. ARGV: token, tick, TTL of claims in
# ms, TTL of the beat in ms, TTL of the sign of life in ms, for how many ticks a newcomer is preferred (0: not at all),
# when the tick begins and how far ahead that may be, in ms. Returns what `Beat.claim` does; behind 'taken' the last
# claimed tick.
_CLAIM = """
local token, tick = tonumber(ARGV[1]), tonumber(ARGV[2])
local newest = tonumber(redis.call('HGET', KEYS[1], 'newest') or '0')
if newest < token then return 'unknown' end
local mine = 'claimed:' .. ARGV[1]
-- A run claims a tick once: if it is this run's already, the answer to that was lost.
if redis.call('GET', KEYS[3]) == mine then return 'claimed' end
if tonumber(redis.call('HGET', KEYS[1], 'active') or '0') > token then return 'relieved' end
local last = redis.call('HGET', KEYS[1], 'last')
if last and tick <= tonumber(last) then return 'taken ' .. last end
local time = redis.call('TIME')
if tonumber(ARGV[7]) > time[1] * 1000 + time[2] / 1000 + tonumber(ARGV[8]) then return 'ahead' end
local from = tonumber(redis.call('HGET', KEYS[1], 'from') or '0')
if newest > token and tick >= from and tick < from + tonumber(ARGV[6]) then return 'yield' end
redis.call('HSET', KEYS[1], 'active', ARGV[1], 'last', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[3], mine, 'PX', ARGV[3])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('SET', KEYS[4], '1', 'PX', ARGV[5])
return 'claimed'
"""

# KEYS: the beat, its claims in flight. ARGV: token, tick, whether to wait for the living. Returns how many claims of
# other runs below the tick are still to be waited for, and how many it has taken away because their run is dead: a
# push for one of those is refused from then on, so that it cannot come out of order.
_BEFORE = """
local alive, lost = 0, 0
local open = redis.call('HGETALL', KEYS[2])
for i = 1, #open, 2 do
  if open[i + 1] ~= ARGV[1] and tonumber(open[i]) < tonumber(ARGV[2]) then
    local record = KEYS[1] .. ':' .. open[i]
    if redis.call('GET', record) ~= 'claimed:' .. open[i + 1] then
      redis.call('HDEL', KEYS[2], open[i])
    elseif ARGV[3] == '1' and redis.call('EXISTS', KEYS[1] .. ':alive:' .. open[i + 1]) == 1 then
      alive = alive + 1
    else
      redis.call('DEL', record)
      redis.call('HDEL', KEYS[2], open[i])
      lost = lost + 1
    end
  end
end
return {alive, lost}
"""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+>")
# A newcomer is preferred for its first ticks only: one that died after its start must not slow the older run down.
_PREFERRED = 3
_BEAT_TTL_MS = 7 * 86_400_000
_CLAIM_TTL_MS = 86_400_000  # a pump may take as long
_PUSHED_TTL_MS = 600_000  # longer than any client goes on sending a push again
_ALIVE_TTL_MS = 5_000
# How far ahead of Redis' clock a tick may begin, in seconds: beyond, it would keep the runs of others waiting.
MAX_AHEAD = 300.0


def tick_at(now: float, every: float) -> int:
    """Return the tick that is current at `now` (seconds since the epoch): the last that has begun.

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


def _in_text(value: Any) -> Any:
    """Return what stands for a parameter that is no JSON: the same in every process, whatever its hash seed."""
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(one, sort_keys=True, default=_in_text) for one in value)
    if hasattr(value, "model_dump"):  # of pydantic
        return [type(value).__name__, value.model_dump()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}]
    text = repr(value)
    if _ADDRESS.search(text):
        msg = (
            f"parameters: expected values that read the same in all runs, as these tell one beat from another; got {text}; "
            "give its class a __repr__ of its values, or make it a dataclass"
        )
        raise SettingsError(msg)
    return text


class Beat:
    """One inlet's ticks: which run claims them, and the push of what was pumped for them.

    parameters   what the pump is called with: two different sets are two beats. Raises SettingsError for objects that
                 have nothing to be told apart by but their address
    keep         as `Reservoir.push`

    skew         seconds that the clock of this run was ahead of Redis' at its start; what the reply's way may have
                 taken is left out
    last         the last tick that was claimed, as of the last claim that found it 'taken'
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
        self._reservoir = reservoir
        self._keep = keep
        what = json.dumps([topic, inlet, every, parameters or {}], sort_keys=True, default=_in_text)
        self.key = f"sluice:beat:{inlet}:{hashlib.sha256(what.encode()).hexdigest()[:16]}"
        self._token = "0"  # noqa: S105 - a number that grows
        self._start = reservoir.client.register_script(_START)
        self._claim = reservoir.client.register_script(_CLAIM)
        self._before = reservoir.client.register_script(_BEFORE)

    def start(self, now: float) -> int:
        """Announce this run as the newest, and return the first tick to claim. Who pumps goes on until then."""
        first = tick_at(now, self.every) + 1
        asked = time.monotonic()
        token, microseconds = self._start(keys=[self.key], args=[first, _BEAT_TTL_MS])
        self._token = token.decode()
        # Redis looked at its clock at some moment between question and answer.
        least = now - int(microseconds) / 1e6
        self.skew = max(least, min(0.0, least + time.monotonic() - asked))
        return first

    def claim(self, tick: int, *, insist: bool = False) -> Claim:
        """Take a tick: 'claimed' by this run; else why not.

        relieved   a newer run has claimed: it has all that follows
        taken      this tick or a later one has been claimed, `last` says which; also where this machine's clock is behind
        ahead      it is more than MAX_AHEAD seconds ahead of Redis' clock
        yield      a newer run is about to claim it; if that does not happen, claim again and `insist`
        unknown    Redis has lost the beat, `start` again
        """
        keys = [self.key, self._open, self._record(tick), self._alive]
        preferred = 0 if insist else _PREFERRED
        begins = round(time_of(tick, self.every) * 1000)
        args = [
            self._token,
            tick,
            _CLAIM_TTL_MS,
            _BEAT_TTL_MS,
            _ALIVE_TTL_MS,
            preferred,
            begins,
            round(MAX_AHEAD * 1000),
        ]
        answer, _, last = self._claim(keys=keys, args=args).decode().partition(" ")
        self.last = int(last or self.last)
        return answer

    def is_kept(self, now: float, *, within: float) -> bool:
        """Return whether any run has claimed a tick of the last `within` seconds."""
        last = self._reservoir.client.hget(self.key, "last")
        return last is not None and time_of(int(last), self.every) > now - within

    def before(self, tick: int, *, wait: bool = True) -> tuple[int, int]:
        """Return how many claims of earlier runs are to be waited for, and how many are lost: their run is dead.

        wait    False: all of them are lost, whether or not their runs live
        """
        alive, lost = self._before(keys=[self.key, self._open], args=[self._token, tick, int(wait)])
        return alive, lost

    def push(self, tick: int, encoded: Iterable[Mapping[bytes, bytes]]) -> list[str] | None:
        """Append what was pumped for a claimed tick, once, and return the ids; None if the claim is not this run's."""
        return self._reservoir.append(
            self.topic,
            encoded,
            record=self._record(tick),
            expected=f"claimed:{self._token}",
            keep=self._keep,
            ttl_ms=_PUSHED_TTL_MS,
        )

    def encode(self, entries: Iterable[Mapping[str, Any]]) -> list[dict[bytes, bytes]]:
        """Return entries as `push` takes them. Raises EncodeError."""
        return self._reservoir.encode(entries)

    def done(self, tick: int, *, pushed: bool) -> None:
        """Say that nothing more comes for a tick, so that nobody waits for it; without a push, its record may go."""
        if not pushed:
            self._reservoir.client.delete(self._record(tick))
        self._reservoir.client.hdel(self._open, str(tick))

    def live(self) -> None:
        """Show that this run lives, so that its successor waits for what it still pumps."""
        self._reservoir.client.set(self._alive, "1", px=_ALIVE_TTL_MS)

    @property
    def _open(self) -> str:
        return f"{self.key}:open"

    @property
    def _alive(self) -> str:
        return f"{self.key}:alive:{self._token}"

    def _record(self, tick: int) -> str:
        return f"{self.key}:{tick}"
