"""Runs that join, leave, die and stand still: never two owners of a partition, and soon fair shares again.

The runs are real `Replica`s on a simulated clock, see `benchmarks.fleet`, which itself fails if a partition gets a second owner or if a
former owner still acts.
"""

import asyncio
from collections.abc import Callable

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.fleet import LONGEST_WORK, MEET, Change, Fleet, Run, least_moves, live

LEASE = 20  # ticks
SOON = 2 * LEASE + 10 * MEET

Fresh = Callable[[], redis.Redis]

actions = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "leave", "kill", "suspend", "wake"]),
        st.integers(0, 9),  # which run
        st.integers(0, 2 * LEASE),  # ticks afterwards
    ),
    max_size=8,
)


async def act(fleet: Fleet, what: str, which: int) -> None:
    """Do something to one of the runs that it can be done to, if there is one."""
    if what == "join":
        fleet.join()
        return
    if what == "wake":
        able = [run for run in fleet.runs if run.is_suspended]
    else:
        able = [run for run in fleet.runs if not run.is_suspended and run.ending is None]
    if able:
        chosen: Run = able[which % len(able)]
        getattr(fleet, what)(chosen)


@given(partitions=st.integers(1, 9), seed=st.integers(0, 99), actions=actions)
# The last run ends when it is no member any more and its lease lives.
@example(partitions=1, seed=0, actions=[("wake", 0, 6), ("suspend", 0, 17)])
def test_a_partition_never_has_two_owners_and_shares_become_fair(
    fresh_client: Fresh, partitions: int, seed: int, actions: list[tuple[str, int, int]]
) -> None:
    fleet = Fleet(fresh_client(), partitions, seed=seed, lease=LEASE)

    async def simulate() -> None:
        fleet.join()
        for what, which, ticks in actions:
            await act(fleet, what, which)
            for _ in range(ticks):
                await fleet.tick()
        for run in fleet.runs:
            fleet.wake(run)
        if all(run.ending for run in fleet.runs):
            fleet.join()
        await fleet.settle(within=SOON)
        assert sum(fleet.owned) == partitions
        assert max(fleet.owned) - min(fleet.owned) <= 1
        await fleet.end()

    asyncio.run(simulate())


def test_partitions_of_a_run_that_stops_are_taken_while_it_finishes_others(client: redis.Redis) -> None:
    fleet = Fleet(client, 12, seed=3, lease=LEASE)

    async def simulate() -> None:
        runs = [fleet.join() for _ in range(3)]
        await fleet.settle()
        change = fleet.change = Change("leave")
        fleet.leave(runs[0])
        await fleet.settle()
        assert len(change.gaps) == 4
        assert max(change.gaps) <= MEET + 1 < LONGEST_WORK
        await fleet.end()

    asyncio.run(simulate())


def test_64_partitions_move_little_more_than_they_must_among_16_runs(real_redis: redis.Redis) -> None:
    fleet = Fleet(real_redis, 64, seed=1, lease=LEASE)

    async def simulate() -> None:
        for change in await live(fleet, 16, 10):
            assert change.took <= SOON
            assert change.least <= change.moves <= change.least + 16
            assert max(change.gaps, default=0) <= SOON
        await fleet.end()

    asyncio.run(simulate())


@pytest.mark.parametrize(
    ("owned", "partitions", "moves"),
    [([8], 8, 0), ([8, 0], 8, 4), ([3, 3], 8, 2), ([4, 4, 0], 8, 2), ([5, 3], 8, 1), ([0, 0, 0], 8, 8)],
)
def test_least_moves_counts_what_no_fair_sharing_can_avoid(owned: list[int], partitions: int, moves: int) -> None:
    assert least_moves(owned, partitions) == moves
