"""Alarms of inlets: one that fails, and one that pushed nothing within its `fresh_within`."""

import pytest
import redis

from tasks import Reservoir
from tasks.pump.alarms import alarms_of_inlets
from tasks.pump.counts import InletCounts, beats, counts_of, redis_ms
from tasks.pump.ticks import Beat

NOW = 1_800_000_000_000
FAILING, SILENT = "sluice.inlet.failing", "sluice.topic.silent"


@pytest.mark.parametrize(
    ("latest", "fresh_within", "expected"),
    [
        ({"pushed": NOW - 1_000}, 0.0, []),
        ({"pushed": NOW - 61_000}, 60.0, [SILENT]),
        ({"pushed": NOW - 61_000, "nothing": NOW}, 60.0, [SILENT]),
        ({"pushed": NOW - 59_000}, 60.0, []),
        ({}, 60.0, [SILENT]),
        ({"pushed": NOW - 61_000, "failed": NOW - 1_000}, 0.0, [FAILING]),
        ({"pushed": NOW - 59_000, "failed": NOW - 1_000}, 0.0, []),
        ({"pushed": NOW - 61_000, "failed": NOW - 1_000, "nothing": NOW}, 0.0, []),
        ({"pushed": NOW - 1_000, "failed": NOW - 9_000}, 0.0, []),
        ({"failed": NOW - 1_000}, 60.0, [FAILING, SILENT]),
        ({"failed": NOW - 900_000}, 0.0, []),
    ],
)
def test_an_inlet_that_fails_or_pushes_nothing_newer_raises_an_alarm(
    latest: dict[str, int], fresh_within: float, expected: list[str]
) -> None:
    counts = InletCounts("inlet", "x", "topic", {"pushed": 1}, latest, fresh_within)
    assert [alarm.event for alarm in alarms_of_inlets([counts], NOW)] == expected


def alarms(client: redis.Redis, *, in_ms: int = 0) -> list[str]:
    found = alarms_of_inlets(counts_of(client, beats(client)), redis_ms(client) + in_ms)
    return [alarm.event for alarm in found]


def test_an_inlet_is_expected_to_push_from_its_first_run_until_it_is_paused(client: redis.Redis) -> None:
    beat = Beat(Reservoir(client), "topic", "inlet", every=1.0, fresh_within=60.0)
    beat.count({"pushed": 0}, run=1)
    assert alarms(client) == []
    assert alarms(client, in_ms=61_000) == [SILENT]
    client.hset(beat.key, "fresh_since", redis_ms(client) - 61_000)
    beat.count({"failed": 1}, run=1)
    assert alarms(client) == [FAILING, SILENT]
    client.hset(beat.key, "latest:failed", redis_ms(client) - 5)
    beat.count({"failed": 1, "pushed": 1}, run=1)
    assert alarms(client) == []
    assert alarms(client, in_ms=61_000) == [SILENT]
    beat.retire()
    beat.count({"failed": 1, "pushed": 1}, run=1)  # of a thread that was on its way
    assert alarms(client, in_ms=61_000) == []
