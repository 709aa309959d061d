"""Nodes that try failed calls again: order, counts over crashes and stops, dead letters, and kept state."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from streamz import Stream
from tornado.ioloop import IOLoop

from tasks import RetryLater
from tasks.nodes.from_redis import from_redis
from tasks.reservoir.levels import Levels
from tasks.reservoir.partitions import Partitioning, declare
from tasks.state.inspection import exported
from tasks.testing import Bench
from tasks.testing.simulation import SimulatedRun
from tests.support.streams import Killed, dead, pending, push_all
from tests.support.waiting import wait_until

RETRY = "1s, 5s, 30s"
ATTEMPTS = 4

# Virtual seconds at which no pause ends: a call that kills the process in the same step of the loop as its end confuses asyncio.
DURATIONS = [0.47, 3.37, 20.57, 1000.87]

outcomes = st.sampled_from(["fail", "fail", "ok", "ask for time", "killed before", "killed after"])
lives = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(DURATIONS), st.sampled_from(["crash", "stop"])),
    max_size=6,
)


@dataclass
class Other:
    """The other side of a sink: it takes, refuses, asks for time or sees the process die, as planned for each number.

    is_in_order   whether no number may come before all smaller ones are done
    """

    plan: list[list[str]] = field(default_factory=list)
    is_in_order: bool = True
    failed: Counter[int] = field(default_factory=Counter)
    taken: list[int] = field(default_factory=list)

    def take(self, n: int) -> int:
        if self.is_in_order:
            assert all(m in self.taken or self.failed[m] == ATTEMPTS for m in range(n)), f"{n} overtook a smaller one"
        assert self.failed[n] < ATTEMPTS, "called again after the last attempt"
        outcome = self.plan[n].pop(0) if n < len(self.plan) and self.plan[n] else "ok"
        if outcome == "killed before":
            raise Killed
        if outcome == "fail":
            self.failed[n] += 1
            msg = f"{n} failed {self.failed[n]} times"
            raise OSError(msg)
        if outcome == "ask for time":
            raise RetryLater(3)
        self.taken.append(n)
        if outcome == "killed after":
            raise Killed
        return n

    async def take_later(self, n: int) -> int:
        await asyncio.sleep(0.1)
        return self.take(n)


NODES: dict[str, Callable[[Stream, Other], Any]] = {
    "map": lambda s, other: s.map(other.take, retry=RETRY),
    "async map": lambda s, other: s.map(other.take_later, retry=RETRY),
    "starmap": lambda s, other: s.map(lambda n: (n,)).starmap(other.take, retry=RETRY),
    "sink": lambda s, other: s.sink(other.take, retry=RETRY),
    "async sink": lambda s, other: s.sink(other.take_later, retry=RETRY),
    "map_async": lambda s, other: s.map_async(other.take_later, retry=RETRY),
    "behind fused nodes": lambda s, other: (
        s.map(lambda n: n).filter(lambda n: True).map(other.take, retry=RETRY).map(float)
    ),
    "behind a buffer": lambda s, other: s.buffer(3).sink(other.take, retry=RETRY),
    "in a union": lambda s, other: (
        s.filter(lambda n: n % 2).union(s.filter(lambda n: n % 2 == 0)).sink(other.take, retry=RETRY)
    ),
    "beside a branch": lambda s, other: (s.sink(lambda n: None), s.sink(other.take, retry=RETRY)),
}


def live(client: redis.Redis, build: Callable[[Stream], Any], pushed: list[str], life: tuple[int, float, str]) -> None:
    """Run a pipeline for some virtual seconds, and end it: by a crash, a kill of a call, or a stop in the middle of whatever it does."""
    pushes, duration, end = life
    pushed += push_all(client, "topic", range(len(pushed), len(pushed) + pushes))

    def made() -> tuple[from_redis, Any]:
        source = from_redis(
            "topic",
            group="group",
            client=client,
            loop=IOLoop.current(),
            asynchronous=True,
            max_deliveries=1000,
            max_entries=3,
        )
        return source, build(source)

    async def work() -> bool:
        steps = asyncio.ensure_future(_step(simulated))
        done, _ = await asyncio.wait([steps], timeout=duration)
        if done:
            steps.result()
        elif end == "stop":
            simulated.source.latest_run._hand_over.end_reading()  # ends the pauses, so that the step returns
            await steps
        return end == "stop"

    simulated = SimulatedRun(made)
    try:
        is_stopped = simulated._runner.run(work())
    except Killed:
        is_stopped = False
    if is_stopped:
        simulated.source.close()
        simulated.close()
    else:
        simulated.kill()


async def _step(simulated: SimulatedRun) -> None:
    run = simulated.source.latest_run
    while (await simulated.source.step() or run.is_busy) and not run._hand_over.is_stopping():  # noqa: ASYNC110 - time passes at once
        await asyncio.sleep(0.25)


@pytest.mark.parametrize("name", NODES)
@given(st.lists(st.lists(outcomes, max_size=7), max_size=8), lives)
def test_failed_calls_are_repeated_in_order_and_counted_over_crashes(
    fresh_client: Callable[[], redis.Redis], name: str, plan: list[list[str]], lived: list[tuple[int, float, str]]
) -> None:
    if name == "behind a buffer":  # which calls in a task of its own, where a KeyboardInterrupt ends the loop
        plan = [[outcome for outcome in each if not outcome.startswith("killed")] for each in plan]
    client, other, pushed = fresh_client(), Other([list(each) for each in plan]), []
    kills = sum(outcome.startswith("killed") for each in plan for outcome in each)
    for life in [(4, DURATIONS[0], "crash"), *lived, *[(0, 1e6, "stop")] * (kills + 1)]:
        live(client, lambda source: NODES[name](source.pluck("n"), other), pushed, life)
    failed = [n for n in range(len(pushed)) if other.failed[n] == ATTEMPTS]
    assert [pushed.index(letter["dead:id"]) for letter in dead(client)] == failed
    assert set(other.taken) >= set(range(len(pushed))) - set(failed)
    assert pending(client) == []
    firsts = list(dict.fromkeys(other.taken))
    assert firsts == sorted(firsts)


@given(st.lists(st.lists(outcomes, max_size=7), max_size=8), lives)
def test_element_that_is_tried_again_is_in_the_state_once(
    fresh_client: Callable[[], redis.Redis], plan: list[list[str]], lived: list[tuple[int, float, str]]
) -> None:
    client, other, pushed = fresh_client(), Other([list(each) for each in plan]), []

    def build(source: Stream) -> Stream:
        sums = source.pluck("n").accumulate(lambda sums, n: [*sums, n], start=[])
        return (
            sums.sliding_window(2, return_partial=False).map(lambda window: window[0][-1]).sink(other.take, retry=RETRY)
        )

    kills = sum(outcome.startswith("killed") for each in plan for outcome in each)
    for life in [(4, DURATIONS[0], "crash"), *lived, *[(0, 1e6, "stop")] * (kills + 1)]:
        live(client, build, pushed, life)
    [state] = [fields[""] for node, fields in exported(client, "group").items() if node.startswith("accumulate")]
    assert state == list(range(len(pushed)))
    failed = [n for n in range(len(pushed)) if other.failed[n] == ATTEMPTS]
    # Both entries of a window fail with it.
    assert {pushed.index(letter["dead:id"]) for letter in dead(client)} == {m for n in failed for m in (n, n + 1)}
    assert set(other.taken) >= set(range(len(pushed) - 1)) - set(failed)


@given(st.lists(st.lists(outcomes, max_size=7), max_size=8), lives)
def test_overtaken_elements_come_too_and_fail_after_the_last_attempt(
    fresh_client: Callable[[], redis.Redis], plan: list[list[str]], lived: list[tuple[int, float, str]]
) -> None:
    plan = [[outcome for outcome in each if not outcome.startswith("killed")] for each in plan]  # in tasks of their own
    client, other, pushed = fresh_client(), Other([list(each) for each in plan], is_in_order=False), []
    for life in [(4, DURATIONS[0], "crash"), *lived, (0, 1e6, "stop")]:
        live(client, lambda source: source.pluck("n").map(other.take, retry=RETRY, overtake=True), pushed, life)
    failed = {n for n in range(len(pushed)) if other.failed[n] == ATTEMPTS}
    assert {pushed.index(letter["dead:id"]) for letter in dead(client)} == failed
    assert set(other.taken) >= set(range(len(pushed))) - failed
    assert pending(client) == []


def numbers(count: int) -> list[dict[str, int]]:
    return [{"n": n} for n in range(count)]


def test_later_elements_overtake_one_that_is_tried_again_if_asked() -> None:
    other = Other([[], ["fail", "fail"]], is_in_order=False)
    with Bench(lambda source: source.pluck("n").sink(other.take, retry=RETRY, overtake=True)) as bench:
        bench.push(*numbers(5))
        bench.drain()
    assert other.taken == [0, 2, 3, 4, 1]


def test_letter_has_the_number_of_attempts_and_the_last_error() -> None:
    other = Other([["fail"] * 4])
    with Bench(lambda source: source.pluck("n").sink(other.take, retry=RETRY)) as bench:
        bench.push(*numbers(1))
        bench.drain()
        [letter] = bench.entries("topic:dead:group")
    assert letter["dead:attempts"] == 4
    assert letter["dead:exception"] == repr(OSError("0 failed 4 times"))
    assert "OSError: 0 failed 4 times" in letter["dead:traceback"]


def test_entry_that_failed_for_the_last_time_before_a_crash_is_not_called_again() -> None:
    other = Other([["fail"] * 4])
    build = lambda source: (source.pluck("n").sink(other.take, retry=RETRY), source.partition(2).sink(print))
    with Bench(build) as bench:
        bench.push(*numbers(1))
        bench.advance("1h")  # the partition holds the failed entry, so it is no dead letter yet
        assert (other.failed[0], bench.dead) == (4, [])
        bench.crash()
        bench.push({"n": 1})
        bench.drain()
        letters = bench.entries("topic:dead:group")
    assert other.failed[0] == 4
    assert [letter["dead:attempts"] for letter in letters] == [4]
    assert "the last error was OSError: 0 failed 4 times" in letters[0]["dead:exception"]


def test_element_that_is_held_is_tried_until_it_succeeds() -> None:
    other = Other([["fail"] * 3])  # `take` refuses a fifth attempt
    with Bench(lambda source: source.pluck("n").sink(other.take, retry="1s", hold=True)) as bench:
        bench.push(*numbers(3))
        bench.drain()
    assert (other.taken, bench.dead) == ([0, 1, 2], [])


def retrying(client: redis.Redis) -> int:
    [level] = Levels(client).of_all(["topic"])
    return level.groups[0].retrying


def test_held_element_is_among_the_retried_ones_of_its_run(client: redis.Redis) -> None:
    is_open: list[bool] = []

    def take(n: int) -> None:
        if not is_open:
            msg = "closed"
            raise OSError(msg)

    push_all(client, "topic", range(2))
    source = from_redis("topic", group="group", client=client, retry="10ms", hold=True)
    source.pluck("n").sink(take)
    source.start()
    wait_until(lambda: [one for one in source.latest_run.retried if one.failed > 3], "a fourth failure")
    [tried] = source.latest_run.retried
    assert (tried.node, tried.topic, tried.most, tried.error) == ("sink(take)", "topic", None, "OSError: closed")
    wait_until(lambda: retrying(client) == 1, "the level of its group to show it")
    is_open.append(True)
    wait_until(lambda: not pending(client) and not source.latest_run.retried, "the entries to pass")
    wait_until(lambda: retrying(client) == 0, "the level of its group to show none")
    source.stop()
    source.join(20)
    assert dead(client) == []


def test_stop_in_a_pause_ends_soon_and_the_next_run_goes_on_counting(client: redis.Redis) -> None:
    other = Other([["fail"] * 4], is_in_order=False)
    push_all(client, "topic", range(3))

    def started(retry: str) -> from_redis:
        source = from_redis("topic", group="group", client=client, grace=60)
        source.pluck("n").sink(other.take, retry=retry)
        source.start()
        return source

    for attempts in (1, 2, 3):  # each run makes one attempt, and is stopped in the pause of an hour
        source = started("1h, 1h, 1h")
        wait_until(lambda: other.failed[0] == attempts and source.latest_run.retried, "another failed attempt")  # noqa: B023
        wait_until(lambda: retrying(client) == 1, "the level of its group to show it")
        source.stop()
        source.join(30)
        assert (len(pending(client)), retrying(client)) == (3, 0)
    source = started("1h, 1h, 1h")
    wait_until(lambda: other.taken == [1, 2], "the other entries")
    wait_until(lambda: not pending(client), "no pending entries")
    source.stop()
    source.join(30)
    assert [letter["dead:attempts"] for letter in dead(client)] == [4]


def test_stop_in_a_pause_keeps_a_stateful_pipeline_exact(client: redis.Redis) -> None:
    other = Other([[], ["fail"]])
    push_all(client, "topic", range(3))

    def started() -> from_redis:
        source = from_redis("topic", group="group", client=client, grace=60)
        source.pluck("n").accumulate(lambda seen, n: [*seen, n], start=[]).map(lambda seen: seen[-1]).sink(
            other.take, retry="1h"
        )
        source.start()
        return source

    source = started()
    wait_until(lambda: source.latest_run.retried, "a failed attempt")
    source.stop()
    source.join(30)
    source = started()
    wait_until(lambda: not pending(client) and other.taken[-1:] == [2], "the last entry")
    source.stop()
    source.join(30)
    assert exported(client, "group") == {"accumulate(<lambda>)": {"": [0, 1, 2]}}


def test_outlet_that_stops_on_errors_makes_all_attempts_again_at_its_next_start() -> None:
    other = Other([["fail"] * 3])
    options = {"on_error": "stop", "retry": "1s, 5s"}
    with Bench(lambda source: source.pluck("n").sink(other.take), options=options) as bench:
        bench.push(*numbers(2))
        with pytest.raises(Exception, match="0 failed 3 times"):
            bench.drain()
        bench.crash()
        bench.drain()
    assert other.taken == [0, 1]


def test_entries_of_another_partition_do_not_wait(client: redis.Redis) -> None:
    declare(client, "topic", Partitioning(2, "n"))
    taken: list[int] = []
    closed = [0]

    def take(n: int) -> None:
        if n in closed:
            msg = "closed"
            raise OSError(msg)
        taken.append(n)

    def of(partition: int) -> from_redis:
        source = from_redis(f"topic:{{{partition}}}", group="group", client=client, partition=partition)
        source.pluck("n").sink(take, retry="10ms", hold=True)
        source.start()
        return source

    with Bench(lambda source: source, client=client) as bench:
        bench.push(*numbers(20))
    sources = [of(0), of(1)]
    mine = next(n for n in (0, 1) if any(entry["n"] == 0 for entry in bench.entries(f"topic:{{{n}}}")))
    others = [entry["n"] for entry in bench.entries(f"topic:{{{1 - mine}}}")]
    wait_until(lambda: len(taken) == len(others), "all entries of the other partition")
    assert taken == others
    closed.clear()
    wait_until(lambda: len(taken) == 20, "the entries behind the one that was held")
    for source in sources:
        source.stop()
        source.join(20)
    assert taken[len(others) :] == [entry["n"] for entry in bench.entries(f"topic:{{{mine}}}")]
