"""The check of `sluice doctor` for alarms of groups and inlets."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import redis

from deployments.checks.findings import Finding, fine, warning
from tasks.errors import SluiceError
from tasks.pump.alarms import alarms_of_inlets
from tasks.pump.counts import beats, counts_of, redis_ms
from tasks.reservoir import Reservoir
from tasks.reservoir.alarms import Alarm, alarms_of
from tasks.reservoir.connection import connect
from tasks.reservoir.history import History
from tasks.settings import redis_url

__all__ = ["check_alarms"]

_SAMPLES = 288  # of a day, one in five minutes


def check_alarms() -> Iterator[Finding]:
    """Yield a warning for each alarm, by the default limits. If Redis does not answer, `check_redis` reports it."""
    with suppress(SluiceError, redis.RedisError):
        with connect(redis_url(), retries=0) as client:
            alarms = _alarms(client)
        for alarm in alarms:
            yield warning("alarms", alarm.message, alarm.remedy)
        if not alarms:
            yield fine("alarms", "no group is behind or has lost entries; no inlet fails or is silent")


def _alarms(client: redis.Redis) -> list[Alarm]:
    levels = Reservoir(client).levels()
    samples = History(client).latest(_SAMPLES)
    before = None
    if samples:
        # Losses of the last day count, and dead letters for as long as they are there.
        there = {(level.topic, group.name) for level in levels for group in level.groups if group.dead}
        dead = {who: n for who, n in samples[0].dead.items() if who not in there}
        before = replace(samples[0], dead=dead)
    return [
        *alarms_of(levels, before),
        *alarms_of_inlets(counts_of(client, beats(client)), redis_ms(client)),
    ]
