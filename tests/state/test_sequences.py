"""Sequences of events in which the state machine found a fault, shrunk."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.state.test_state_machine import TOPICS, KeptState
from tests.support.stateful import Shape

Fresh = Callable[[], redis.Redis]


def begun(fresh: Fresh, *branch: str, topics: list[str] = TOPICS[:1], **shape: Any) -> KeptState:
    """Return a machine with a graph of one branch."""
    machine = KeptState(fresh)
    machine.make(shape=Shape(shape.get("trunk", []), [list(branch)]), topics=topics)
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
