"""Limits on the runs that a worker starts at once, and its poll for runs to cancel."""

import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Running

from deployments.processes.in_flight import Cancellations, Observer, Starts
from tests.support.plain import Plain


@given(
    at_once=st.integers(1, 4),
    steps=st.lists(st.tuples(st.sampled_from(["due", "imported", "ended", "minute"]), st.integers(0, 7)), max_size=40),
)
def test_starts_under_way_never_exceed_the_bound_and_none_waits_for_nothing(
    tmp_path_factory: pytest.TempPathFactory, at_once: int, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("starts")
    now = 0.0
    starts = Starts(folder, at_once=at_once, clock=lambda: now)
    ids = [uuid4() for _ in range(8)]
    model: dict[UUID, float] = {}  # start times of the runs under way
    for what, n in steps:
        if what == "due":
            due = [run for run in ids[: n + 1] if run not in model]
            chosen = starts.choose(due)
            assert chosen == set(due[: at_once - len(model)])
            model |= dict.fromkeys(chosen, now)
        elif what == "imported":
            (folder / str(ids[n])).unlink(missing_ok=True)
            model.pop(ids[n], None)
        elif what == "ended":
            starts.end(ids[n])
            model.pop(ids[n], None)
        else:
            now += 61
            model.clear()
        assert len(model) <= at_once
        assert starts.free() == at_once - len(model)


def test_files_of_a_worker_that_was_killed_take_no_place(tmp_path: Path) -> None:
    Starts(tmp_path, at_once=1).begin(uuid4())
    assert Starts(tmp_path, at_once=1).free() == 1
    assert list(tmp_path.iterdir()) == []


class Noting(Observer):
    def __init__(self, cancellations: Cancellations) -> None:
        self.seen: list[UUID] = []
        self.cancellations = cancellations
        super().__init__(self.seen.append)


@flow
def watched() -> None: ...


def test_each_observer_of_a_run_hears_once_that_it_is_to_be_cancelled(prefect_server: Plain) -> None:
    runs = [prefect_server.client.create_flow_run(watched, state=Running()).id for _ in range(3)]

    async def look() -> None:
        cancellations = Cancellations()
        early, late, other = (Noting(cancellations) for _ in range(3))
        for run in runs[:2]:
            early.add_in_flight_flow_run_id(run)
        async with get_client() as client:
            await cancellations.look(client)
            assert early.seen == []
            for run in runs[1:]:
                prefect_server.client.set_flow_run_state(run, Cancelling(), force=True)
            for _ in range(2):
                await cancellations.look(client)
            assert early.seen == [runs[1]]
            late.add_in_flight_flow_run_id(runs[1])  # the id of the run's process, which starts later
            other.add_in_flight_flow_run_id(runs[2])
            await cancellations.look(client)
            assert (early.seen, late.seen, other.seen) == ([runs[1]], [runs[1]], [runs[2]])
            assert not cancellations.remove(runs[1], early)
            assert cancellations.remove(runs[1], late)

    with temporary_settings(
        {
            PREFECT_API_URL: prefect_server.env["PREFECT_API_URL"],
            PREFECT_API_AUTH_STRING: prefect_server.env["PREFECT_API_AUTH_STRING"],
        }
    ):
        asyncio.run(look())


def test_looking_for_runs_to_cancel_outlasts_a_server_that_is_away(prefect_server: Plain) -> None:
    run = prefect_server.client.create_flow_run(watched, state=Running()).id
    prefect_server.client.set_flow_run_state(run, Cancelling(), force=True)

    async def outlast() -> None:
        cancellations = Cancellations()
        heard = asyncio.Event()
        observer = Noting(cancellations)
        observer.on_cancelling = lambda _: heard.set()
        observer.add_in_flight_flow_run_id(run)
        look, failures = cancellations.look, iter(range(2))

        async def failing(client: object) -> None:
            if next(failures, None) is not None:
                raise OSError
            await look(client)  # type: ignore[arg-type]

        cancellations.look = failing  # type: ignore[method-assign]
        async with observer:
            await asyncio.wait_for(heard.wait(), 60)

    with (
        temporary_settings(
            {
                PREFECT_API_URL: prefect_server.env["PREFECT_API_URL"],
                PREFECT_API_AUTH_STRING: prefect_server.env["PREFECT_API_AUTH_STRING"],
            }
        ),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("deployments.processes.in_flight._LOOK", 0.05)
        asyncio.run(outlast())
