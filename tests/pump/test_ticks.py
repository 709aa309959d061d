"""Ownership of ticks: overlapping runs never push a tick twice, and the newcomer begins where the older run ends."""

import os
import subprocess
import sys
from collections.abc import Callable
from random import Random

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from tasks import Reservoir, SettingsError
from tasks.pump.ticks import Beat, tick_at, time_of

Fresh = Callable[[], redis.Redis]


@given(tick=st.integers(0, 10**12), every=st.sampled_from([0.02, 0.1, 0.3, 0.5, 1.0, 5.0, 7.0, 60.0]))
def test_a_tick_is_current_from_its_time_on(tick: int, every: float) -> None:
    assert tick_at(time_of(tick, every), every) == tick


@example(now=1.9, every=0.02)  # 1.9 / 0.02 is 95, and 95 * 0.02 is above 1.9
@given(now=st.floats(0, 2e9), every=st.sampled_from([0.02, 0.1, 0.3, 0.5, 1.0, 5.0, 7.0, 60.0]))
def test_the_current_tick_is_the_last_that_has_begun(now: float, every: float) -> None:
    tick = tick_at(now, every)
    assert time_of(tick, every) <= now < time_of(tick + 1, every)


def beat(client: redis.Redis, **options: object) -> Beat:
    return Beat(Reservoir(client), "topic", "inlet", **({"every": 1.0} | options))


class Run:
    """A run of the model: claims each tick, pumps for a while, pushes in order, and may die at any time."""

    def __init__(self, client: redis.Redis, now: int, *, life: int, pump: int, skew: int) -> None:
        self.beat, self.end, self.pump, self.skew = beat(client), now + life, pump, skew
        self.next = self.beat.start(now + skew)
        self.relieved = False
        self.open: list[tuple[int, int]] = []  # tick, when its pump ends
        self.has_pushed = False

    def claim(self, now: int) -> bool:
        """Claim the current tick; return whether this run has it."""
        tick = now + self.skew
        if self.relieved or tick < self.next:
            return False
        answer = self.beat.claim(tick)
        if answer == "yield":
            return False
        return self.take(tick, now, answer)

    def insist(self, now: int) -> bool:
        tick = now + self.skew
        if self.relieved or tick < self.next or (self.open and self.open[-1][0] == tick):
            return False
        return self.take(tick, now, self.beat.claim(tick, insist=True))

    def take(self, tick: int, now: int, answer: str) -> bool:
        self.relieved = answer == "relieved"
        if answer == "claimed":
            assert self.beat.claim(tick) == "claimed"  # the answer was lost
            self.open.append((tick, now + self.pump))
        return answer == "claimed"

    def push(self, now: int) -> None:
        while self.open and self.open[0][1] <= now:
            tick = self.open[0][0]
            if not self.has_pushed and self.beat.before(tick)[0]:
                return
            self.has_pushed = True
            encoded = self.beat.reservoir.encode([{"n": tick}])
            assert self.beat.push(tick, encoded) == self.beat.push(tick, encoded)  # the answer was lost
            self.beat.done(tick, pushed=True)
            self.open.pop(0)


@given(
    runs=st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 8), st.sampled_from([0, 0, 0, -5, 5])),
        min_size=1,
        max_size=6,
    ),  # start, lifetime, seconds a pump takes, how far its clock is off
    order=st.randoms(use_true_random=False),
)
def test_overlapping_runs_claim_every_free_tick_and_push_each_once_in_order(
    fresh_client: Fresh, runs: list[tuple[int, int, int, int]], order: Random
) -> None:
    client = fresh_client()
    started: list[Run] = []
    claimed: list[int] = []
    agree = all(skew == 0 for *_, skew in runs)
    for now in range(100, 180):
        started += [
            Run(client, now, life=life, pump=pump, skew=skew) for start, life, pump, skew in runs if 100 + start == now
        ]
        alive = [run for run in started if now < run.end]
        for run in [run for run in started if now >= run.end]:  # dead: so is its sign of life
            client.delete(run.beat._alive)
        order.shuffle(alive)
        free = [run for run in alive if not run.relieved and run.next <= now + run.skew]
        got = [run for run in alive if run.claim(now)] + [run for run in alive if run.insist(now)]
        claimed += [now for _ in got]
        for run in alive:
            run.push(now)
        if agree and free:
            assert len(got) == 1
    topic = [entry["n"] for entry in Reservoir(client).peek("topic", 1000)]
    assert topic == sorted(set(topic))


def test_older_run_continues_until_the_newcomer_claims(client: redis.Redis) -> None:
    old, new = beat(client), beat(client)
    assert old.start(100.2) == 101
    assert old.claim(101) == "claimed"
    assert new.start(101.5) == 102
    assert old.claim(102) == "yield"
    assert old.claim(102, insist=True) == "claimed"
    assert new.claim(102) == "taken"
    assert new.claim(103) == "claimed"
    assert old.claim(104) == "relieved"


def test_a_newcomer_that_died_before_its_first_tick_slows_three_ticks_down_at_most(client: redis.Redis) -> None:
    old, new = beat(client), beat(client)
    old.start(100.0)
    new.start(100.0)
    assert [old.claim(tick) for tick in range(101, 106)] == ["yield", "yield", "yield", "claimed", "claimed"]


def test_a_claimed_tick_is_not_claimed_again_when_its_record_has_expired(client: redis.Redis) -> None:
    one, other = beat(client), beat(client)
    one.claim(one.start(100.0))
    client.delete(one._record(101))
    other.start(50.0)
    assert [other.claim(tick) for tick in (51, 101, 102)] == ["taken", "taken", "claimed"]


def test_a_claim_of_a_dead_run_is_lost_and_of_a_live_one_waited_for(client: redis.Redis) -> None:
    old, new = beat(client), beat(client)
    old.claim(old.start(100.0))
    new.start(101.0)
    assert new.claim(102) == "claimed"
    assert new.before(102) == (1, 0)
    client.delete(old._alive)
    assert new.before(102) == (0, 1)
    assert old.push(101, old.reservoir.encode([{"n": 1}])) is None
    assert new.before(102) == (0, 0)


def test_a_push_sent_again_answers_the_same_id(client: redis.Redis) -> None:
    one = beat(client)
    one.claim(one.start(100.0))
    encoded = one.reservoir.encode([{"n": 1}])
    assert one.push(101, encoded) == one.push(101, encoded)
    assert client.xlen("topic") == 1


def test_a_tick_that_another_run_claimed_is_not_pushed(client: redis.Redis) -> None:
    one, other = beat(client), beat(client)
    one.claim(one.start(100.0))
    other.start(100.0)
    assert other.push(101, other.reservoir.encode([{"n": 1}])) is None
    assert client.exists("topic") == 0


def test_the_same_inlet_with_other_parameters_is_another_beat(client: redis.Redis) -> None:
    sh, sz = beat(client, parameters={"board": "sh"}), beat(client, parameters={"board": "sz"})
    for one in (sh, sz):
        assert one.claim(one.start(100.0)) == "claimed"


KEY_OF_SETS = """
from dataclasses import dataclass
from pydantic import BaseModel
from tasks import Reservoir
from tasks.testing import fake_redis
from tasks.pump.ticks import Beat

class Model(BaseModel):
    codes: set[str]

@dataclass
class Board:
    codes: frozenset[str]

codes = {"sh", "sz", "bj", "hk"}
parameters = {"codes": codes, "nested": [{"codes": frozenset(codes)}], "model": Model(codes=codes), "board": Board(frozenset(codes))}
print(Beat(Reservoir(fake_redis()), "topic", "inlet", every=1.0, parameters=parameters).key)
"""


def test_the_same_parameters_are_the_same_beat_in_every_process() -> None:
    keys = {
        subprocess.run(
            [sys.executable, "-c", KEY_OF_SETS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
            timeout=240,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(keys) == 1


def test_parameters_that_only_their_address_distinguishes_are_refused(fake_redis: redis.Redis) -> None:
    with pytest.raises(SettingsError, match="got <object object at 0x.*make it a dataclass"):
        beat(fake_redis, parameters={"board": object()})
    with pytest.raises(SettingsError, match="repr is the same in all runs"):
        beat(fake_redis, parameters={"boards": [lambda: "sh"]})
