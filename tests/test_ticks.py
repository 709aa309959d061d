"""Who owns a tick: overlapping runs never push one twice, and the newcomer begins where the older one ends."""

from collections.abc import Callable
from random import Random

import redis
from hypothesis import given
from hypothesis import strategies as st

from tasks import Reservoir
from tasks.ticks import Beat, tick_at, time_of

Fresh = Callable[[], redis.Redis]


@given(tick=st.integers(0, 10**12), every=st.sampled_from([0.02, 0.1, 0.3, 0.5, 1.0, 5.0, 7.0, 60.0]))
def test_a_tick_is_current_from_its_time_on(tick: int, every: float) -> None:
    assert tick_at(time_of(tick, every), every) == tick


@given(now=st.floats(0, 2e9), every=st.sampled_from([0.02, 0.1, 0.3, 0.5, 1.0, 5.0, 7.0, 60.0]))
def test_the_current_tick_is_the_last_that_has_begun(now: float, every: float) -> None:
    tick = tick_at(now, every)
    assert time_of(tick, every) <= now < time_of(tick + 1, every)


def beat(client: redis.Redis, **options: object) -> Beat:
    return Beat(Reservoir(client), "topic", "inlet", **({"every": 1.0} | options))


@given(
    runs=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=1, max_size=5),  # start, lifetime
    order=st.randoms(use_true_random=False),
)
def test_overlapping_runs_push_each_tick_once_and_leave_none_out_that_its_owner_lived_to_see(
    fresh_client: Fresh, runs: list[tuple[int, int]], order: Random
) -> None:
    client = fresh_client()
    started: list[tuple[Beat, int, int]] = []
    pushed: list[int] = []
    for now in range(70):
        started += [(one := beat(client), one.start(now), now + life) for start, life in runs if start == now]
        owner = next((run for run in reversed(started) if run[1] <= now), None)
        alive = [one for one, _, end in started if now < end]
        order.shuffle(alive)
        for one in alive:
            if one.claim(now) == "claimed" and one.push(now, [{"n": now}]):
                pushed.append(now)
        if owner is not None and now < owner[2]:
            assert pushed[-1] == now
    assert pushed == sorted(set(pushed))
    assert [entry["n"] for entry in Reservoir(client).peek("topic", 100)] == pushed


def test_a_newcomer_is_given_a_tick_ahead_and_the_older_run_stops_there(client: redis.Redis) -> None:
    old, new = beat(client), beat(client)
    assert old.start(100.2) == 101
    assert old.claim(101) == "claimed"
    assert new.start(101.5) == 103
    assert new.claim(102) == "early"
    assert old.claim(102) == "claimed"
    assert old.claim(103) == "relieved"
    assert new.claim(103) == "claimed"


def test_a_claim_sent_again_because_its_answer_was_lost_is_the_same_claim(client: redis.Redis) -> None:
    one, other = beat(client), beat(client)
    one.start(100.0)
    assert [one.claim(101), one.claim(101)] == ["claimed", "claimed"]
    other._token = one._token + 1  # as a run that does not know of the first one
    client.hset(other.key, f"from:{other._token}", 101)
    assert other.claim(101) == "taken"
    assert one.push(101, [{"n": 1}]) == one.push(101, [{"n": 1}])
    assert client.xlen("topic") == 1


def test_a_push_sent_again_answers_the_same_id(client: redis.Redis) -> None:
    one = beat(client)
    one.claim(one.start(100.0))
    assert one.push(101, [{"n": 1}]) == one.push(101, [{"n": 1}])
    assert client.xlen("topic") == 1


def test_a_tick_that_another_run_claimed_is_not_pushed(client: redis.Redis) -> None:
    one, other = beat(client), beat(client)
    one.claim(one.start(100.0))
    other.start(100.0)
    assert other.push(101, [{"n": 1}]) is None
    assert client.exists("topic") == 0


def test_the_same_inlet_with_other_parameters_is_another_beat(client: redis.Redis) -> None:
    sh, sz = beat(client, parameters={"board": "sh"}), beat(client, parameters={"board": "sz"})
    for one in (sh, sz):
        assert one.claim(one.start(100.0)) == "claimed"
