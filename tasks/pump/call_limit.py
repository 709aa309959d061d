"""Limits on how often a source is called, shared by all inlets that name the same limit, on any machine."""

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import redis

from tasks.base import quantities
from tasks.checks import is_group
from tasks.errors import SettingsError
from tasks.reservoir.keys import limit_keys
from tasks.reservoir.lua import load
from tasks.reservoir.refusals import explained

__all__ = ["CallGate", "CallLimit"]

_TAKE = load(__file__, "take_call")
_FORM = re.compile(r"\s*([1-9][0-9]*)\s*/\s*(\S.*)")
_MOST = 100_000  # calls; Redis keeps the time of each
_LONGEST_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class CallLimit:
    """At most `calls` calls within any `period_ms`, counted together for all inlets that name the limit."""

    name: str
    calls: int
    period_ms: int

    @classmethod
    def of(cls, limit: str, name: str) -> Self:
        """Parse a limit such as '100/min', '5/s' or '1000/1d'.

        name      names the limit; inlets with the same name share it
        raises    SettingsError
        """
        calls, period_ms = _parsed(limit)
        if not (0 < calls <= _MOST and 0 < period_ms <= _LONGEST_MS):
            msg = f"limit: expected up to {_MOST:,} calls per duration of up to 30 days, such as '100/min', '5/s' or '1000/1d', got {limit!r}"
            raise SettingsError(msg)
        if not is_group(name):
            msg = f"limit_name: expected a name of letters, digits, '.', '_' and '-', got {name!r}"
            raise SettingsError(msg)
        return cls(name, calls, period_ms)

    def __str__(self) -> str:
        return f"{self.calls}/{quantities.in_time(self.period_ms / 1000)}"


def _parsed(limit: str) -> tuple[int, int]:
    """Return the number of calls and the period in ms; (0, 0) for another text."""
    found = _FORM.fullmatch(limit.strip())
    with suppress(ValueError):
        if found:
            period = found[2] if found[2][:1].isdigit() else f"1{found[2]}"
            return int(found[1]), round(quantities.duration(period) * 1000)
    return 0, 0


class CallGate:
    """Decides whether an inlet may call its source now.

    limit    the limit; None: calls are counted nowhere, and a pause concerns this inlet alone
    inlet    its name and a digest of its parameters
    """

    def __init__(self, client: redis.Redis, limit: CallLimit | None, *, inlet: str) -> None:
        self.limit = limit
        self._client: Any = client  # redis-py types replies for all protocols and decodings at once
        self._calls, self._pause = limit_keys(limit.name if limit else inlet)
        self._take = _TAKE.on(client)

    def take(self) -> float:
        """Count a call, and return 0; if it is not allowed now, count none, and return the seconds until it may be.

        A call whose reply was lost counts twice, so that the limit is never exceeded.
        """
        if self.limit is None:
            return self.left()
        try:
            wait_ms = self._take(
                calls=self._calls, pause=self._pause, most=self.limit.calls, period_ms=self.limit.period_ms
            )
        except redis.ResponseError as error:
            types = {self._calls: "list", self._pause: "string"}
            raise explained(error, self._client, types, what="no call was allowed") from error
        return int(wait_ms) / 1000

    def left(self) -> float:
        """Return the seconds that are left of a pause; 0 for none."""
        return max(0, self._client.pttl(self._pause)) / 1000

    def pause(self, seconds: float) -> None:
        """Allow no call for some seconds, to any inlet with this limit; a longer pause stays."""
        pause_ms = max(1, min(round(seconds * 1000), _LONGEST_MS))
        if self._client.pttl(self._pause) < pause_ms:
            self._client.set(self._pause, "1", px=pause_ms)
