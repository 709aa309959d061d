"""Sequences of events in which the state machine found a fault, shrunk."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from tasks import LeaseLostError
from tests.state.test_state_machine import TOPICS, KeptState
from tests.support.stateful import Shape

Fresh = Callable[[], redis.Redis]


def begun(fresh: Fresh, *branch: str, topics: list[str] = TOPICS[:1], **shape: Any) -> KeptState:
    """Return a machine with a graph of one branch."""
    machine = KeptState(fresh)
    machine.make(shape=Shape(shape.get("trunk", []), [list(branch)]), topics=topics)
    machine.crash(nth=0)
    return machine


def test_run_that_waits_for_the_owner_of_the_state_stops_in_good_order(fresh_client: Fresh) -> None:
    machine = begun(fresh_client, "accumulate")
    machine.start(max_entries=3)
    machine.start(max_entries=3)
    machine.step(nth=0, times=1, ahead=False)
    machine.step(nth=1, times=1, ahead=False)
    machine.stop(nth=1)
    machine.teardown()


@pytest.mark.parametrize("command", range(1, 10))
def test_state_is_loaded_again_if_a_reply_was_lost_at_the_start(fresh_client: Fresh, command: int) -> None:
    machine = begun(fresh_client, "accumulate")
    machine.push(topic="one", marks=[None, None], gap=1)
    machine.start(max_entries=3)
    machine.step(nth=0, times=1, ahead=False)
    machine.stop(nth=0)
    machine.push(topic="one", marks=[None], gap=1)
    machine.start(max_entries=3)
    machine.lose_a_reply(nth=0, command=command)
    machine.step(nth=0, times=3, ahead=False)
    machine.teardown()


@pytest.mark.parametrize("command", range(1, 12))
def test_owner_that_stops_before_it_has_joined_is_succeeded_at_once(fresh_client: Fresh, command: int) -> None:
    machine = begun(fresh_client, "accumulate", topics=TOPICS)
    machine.push(topic="two", marks=[None], gap=1)
    machine.start(max_entries=3)
    machine.lose_a_reply(nth=0, command=command)
    machine.step(nth=0, times=1, ahead=False)
    machine.stop(nth=0)
    machine.teardown()


def test_former_owner_of_the_state_cannot_come_back_to_life(fresh_client: Fresh) -> None:
    machine = begun(fresh_client, "accumulate")
    machine.start(max_entries=3)
    machine.start(max_entries=3)
    former, owner = machine.world.lives
    machine.step(nth=0, times=1, ahead=False)
    machine.sleep(nth=0)
    assert owner.run.is_admitted()
    with pytest.raises(LeaseLostError):
        former.membership.renew()
    machine.step(nth=0, times=1, ahead=False)
    machine.teardown()


def test_group_that_a_redis_set_back_does_not_know_begins_anew(fresh_client: Fresh) -> None:
    machine = begun(fresh_client, "accumulate")
    machine.push(topic="one", marks=[None, None], gap=1)
    machine.take_a_snapshot()
    machine.start(max_entries=3)
    machine.step(nth=0, times=2, ahead=False)
    machine.set_back()
    machine.step(nth=0, times=2, ahead=False)
    machine.teardown()


def read_and_not_stored(fresh: Fresh, *, before: int, after: int) -> KeptState:
    """Return a machine with a snapshot, and with entries that a life has read since then without a cut."""
    machine = begun(fresh, "accumulate", trunk=["map_async"])
    machine.start(max_entries=10)
    machine.step(nth=0, times=1, ahead=False)
    for number in (before, after):
        if number:
            machine.push(topic="one", marks=[None] * number, gap=1)
        if number == before:
            machine.take_a_snapshot()
    machine.step(nth=0, times=1, ahead=False)
    machine.set_back()
    return machine


def test_entries_read_anew_from_a_redis_that_was_set_back_count_once(fresh_client: Fresh) -> None:
    machine = read_and_not_stored(fresh_client, before=3, after=0)
    machine.step(nth=0, times=3, ahead=False)
    machine.teardown()


def test_entries_that_a_redis_set_back_has_lost_are_not_in_the_state(fresh_client: Fresh) -> None:
    machine = read_and_not_stored(fresh_client, before=0, after=3)
    machine.step(nth=0, times=3, ahead=False)
    machine.teardown()


@pytest.mark.parametrize("command", range(1, 12))
def test_entries_lost_by_redis_do_not_count_if_others_were_read_since(fresh_client: Fresh, command: int) -> None:
    machine = begun(fresh_client, "accumulate")
    machine.start(max_entries=3)
    machine.push(topic="one", marks=[None], gap=1)
    machine.step(nth=0, times=2, ahead=False)
    machine.take_a_snapshot()
    machine.push(topic="one", marks=[None], gap=1)
    machine.lose_a_reply(nth=0, command=command)  # among them that of the cut
    machine.step(nth=0, times=1, ahead=False)
    machine.set_back()
    machine.push(topic="one", marks=[None], gap=1)
    machine.step(nth=0, times=2, ahead=False)
    machine.teardown()


def test_no_cut_is_taken_while_an_asynchronous_node_is_at_work(fresh_client: Fresh) -> None:
    machine = begun(fresh_client, "accumulate", trunk=["map_async"])
    machine.start(max_entries=3)
    machine.push(topic="one", marks=[None, None, None], gap=1)
    machine.step(nth=0, times=1, ahead=False, nap=0.0)
    machine.crash(nth=0)
    machine.teardown()


@pytest.mark.parametrize("marks", [["a", None], [None, "a"]])
def test_window_of_an_earlier_run_fails_with_the_entries_it_holds(fresh_client: Fresh, marks: list[str | None]) -> None:
    machine = begun(fresh_client, "sliding_window with partial ones", "check a")
    for mark in marks:
        machine.start(max_entries=3)
        machine.push(topic="one", marks=[mark], gap=1)
        machine.step(nth=0, times=2, ahead=False)
        machine.stop(nth=0)
    machine.teardown()


def test_nested_results_of_zip_latest_are_awaited(fresh_client: Fresh) -> None:
    machine = begun(fresh_client, "partition with a timeout", "zip_latest", trunk=["accumulate"])
    machine.start(max_entries=3)
    machine.push(topic="one", marks=[None] * 6, gap=1)
    machine.step(nth=0, times=4, ahead=False)
    machine.teardown()
