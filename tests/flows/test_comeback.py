"""Runs that fail in a row begin after ever longer pauses, and at once after a healthy run."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, StateType

from flows.runtime.comeback import failures, pause_after

FAILED, CRASHED, CANCELLED, COMPLETED = (
    StateType.FAILED,
    StateType.CRASHED,
    StateType.CANCELLED,
    StateType.COMPLETED,
)


def ended(kind: StateType, seconds: float | None = 5.0) -> FlowRun:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    times = {} if seconds is None else {"start_time": start, "end_time": start + timedelta(seconds=seconds)}
    return FlowRun.model_validate({"id": uuid4(), "flow_id": uuid4(), "state_type": kind, **times})


@pytest.mark.parametrize(
    ("newest_first", "count"),
    [
        ([], 0),
        ([ended(FAILED), ended(CRASHED), ended(FAILED)], 3),
        ([ended(FAILED), ended(COMPLETED), ended(FAILED)], 1),
        ([ended(FAILED), ended(CANCELLED), ended(FAILED)], 1),
        ([ended(CANCELLED), ended(FAILED)], 0),
        ([ended(FAILED), ended(CRASHED, 130), ended(FAILED)], 2),  # it was healthy before it crashed
        ([ended(FAILED, 65), ended(FAILED, 64)], 2),  # most of this time was the pause
        ([ended(CANCELLED, None), ended(FAILED), ended(CANCELLED, None), ended(FAILED)], 2),  # a run beside it
        ([ended(CANCELLED, 0), ended(FAILED), ended(CANCELLED, 0), ended(FAILED)], 2),  # as Prefect reports it
        ([ended(CRASHED, 0), ended(CRASHED, 0), ended(CRASHED, 0)], 0),  # a file that could not be imported
    ],
)
def test_failures_count_up_to_the_last_run_that_was_healthy_or_was_stopped(
    newest_first: list[FlowRun], count: int
) -> None:
    assert failures(newest_first) == count


def test_the_first_failure_costs_no_pause_and_none_costs_more_than_a_minute() -> None:
    assert [pause_after(n) for n in range(9)] == [0, 0, 2, 4, 8, 16, 32, 60, 60]
