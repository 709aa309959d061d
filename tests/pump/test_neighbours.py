"""Runs of one inlet with different parameters on one topic: each warns once that both push."""

import redis

from tasks import Reservoir
from tasks.pump.neighbours import Neighbours
from tasks.pump.ticks import Beat
from tasks.reservoir.keep import Keep
from tasks.reservoir.retention import Retention


class Run:
    """The visible part of a run of the inlet 'quotes'."""

    def __init__(
        self, client: redis.Redis, name: str, *, topic: str = "topic", every: float = 1.0, **own: object
    ) -> None:
        self.beat = Beat(Reservoir(client), topic, "quotes", every=every, parameters=own)
        inlet = self.beat.key.removeprefix("sluice:beat:")
        Retention(client).declare(topic, Keep.of(1000), inlet=inlet)
        self.beat.start(990.0)
        self.neighbours = Neighbours(client, self.beat, parameters=own, run=name)
        self.neighbours.announce()

    def ticks(self, at: float) -> None:
        assert self.beat.claim(round(at / self.beat.every), skip=True) == "claimed"


def test_both_runs_learn_once_that_the_other_pumps_and_which_parameters_differ(client: redis.Redis) -> None:
    scheduled = Run(client, "calm-owl", board="sz", token="secret-a", top=5)
    scheduled.ticks(1000)
    custom = Run(client, "brave-fox", board="sh", token="secret-b", top=5)
    [warning] = custom.neighbours.found(1000.5)
    assert warning.startswith(
        "topic 'topic': run 'calm-owl' of the same inlet, 'quotes', pumps into it too, with another value of board, token, so"
    )
    assert "secret" not in warning
    assert b"secret" not in b"".join(client.hvals(scheduled.beat.key))  # type: ignore[arg-type]
    custom.ticks(1001)
    assert ["brave-fox" in each for each in scheduled.neighbours.found(1001.5)] == [True]
    assert custom.neighbours.found(1001.5) == scheduled.neighbours.found(1001.5) == []


def test_a_run_with_another_beat_is_found_by_its_rhythm(client: redis.Redis) -> None:
    slow, quick = Run(client, "slow", every=60.0), Run(client, "quick")
    slow.ticks(1020)
    [warning] = quick.neighbours.found(1110)
    assert "another value of every, so" in warning


def test_runs_that_have_ended_or_have_other_topics_are_no_neighbours(client: redis.Redis) -> None:
    ended, elsewhere, one = Run(client, "a", n=1), Run(client, "b", topic="other", n=2), Run(client, "c", n=3)
    ended.ticks(1000)
    elsewhere.ticks(1010)
    one.ticks(1010)
    Run(client, "d", n=3).ticks(1011)  # relieves it
    assert one.neighbours.found(1011) == []


def test_a_runs_announcement_expires_with_its_beat(client: redis.Redis) -> None:
    run = Run(client, "a")
    client.delete(run.beat.key)  # flushed
    run.neighbours.announce()
    assert client.pttl(run.beat.key) > 0
    assert run.beat.start(1000.0) == 1001
    assert run.beat.claim(1001, skip=True) == "claimed"
    assert run.beat.unattended == 0
