"""Runs that `sluice up` and `sluice restart` start, end and mark, on a real Prefect server."""

import contextvars
import io
import itertools
import threading
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis
from httpx import HTTPError, HTTPStatusError, Request, Response
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Crashed, Failed, Pending, Running
from rich.console import Console, RenderableType

from deployments.commands import restart
from deployments.rollout import apply as rollout
from deployments.rollout import deployed, ending, pool_ending, runs
from deployments.rollout.blueprint import Blueprint, Deployment
from deployments.servers.prefect_server import POOL
from deployments.stack import follow
from deployments.stack.follow import Follower
from flows.runtime import prefect_api
from tasks import Reservoir, UnavailableError
from tests.support.ports import refusing_port
from tests.support.streams import push_all
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("prefect")


@flow
def followed() -> None: ...


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"), overwrite=True)
        yield client
        client.delete_flow(client.create_flow(followed))  # and its deployments
        client.request("DELETE", "/work_pools/{name}", path_params={"name": POOL})


def deployment(client: SyncPrefectClient, name: str) -> UUID:
    return client.create_deployment(client.create_flow(followed), name, work_pool_name=POOL)


def run(client: SyncPrefectClient, of: UUID) -> UUID:
    """Return a new run of the deployment that is Running."""
    made = client.create_flow_run_from_deployment(of).id
    client.set_flow_run_state(made, Running(), force=True)
    return made


def test_the_follower_prints_every_state_change_of_outlets_across_pages(
    client: SyncPrefectClient, fake_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployed, "_PAGE", 1)  # Prefect's pages have 200; so many runs would take long
    monkeypatch.setattr(follow, "_POLL_SECONDS", 0.0)
    outlet, inlet = deployment(client, "outlet"), deployment(client, "inlet")
    output = io.StringIO()
    console = Console(file=output, width=200)
    with Follower(console, client, Reservoir(fake_redis), topics=["none"], outlets={outlet}) as follower:
        first = run(client, outlet)
        others = [run(client, inlet) for _ in range(2)]
        follower.step()
        client.set_flow_run_state(first, Failed(message="no \x1b[2Jluck"), force=True)
        client.set_flow_run_state(others[0], Crashed(message="gone"), force=True)
        follower.step()
        follower.step()
    lines = [line.split(" ", 2)[2] for line in output.getvalue().splitlines()]  # behind the time and its zone
    assert lines[0] == "followed Running"
    assert sorted(lines[1:]) == ["followed Crashed gone", "followed Failed no  [2Jluck"]


@pytest.mark.parametrize("quiet", [False, True])
def test_the_follower_keeps_addresses_and_state_in_view_above_results(
    client: SyncPrefectClient, fake_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, *, quiet: bool
) -> None:
    monkeypatch.setattr(follow, "_POLL_SECONDS", 0.0)
    push_all(fake_redis, "topic", range(3))
    outlet = deployment(client, "outlet")
    first, _ = run(client, outlet), run(client, outlet)
    console = Console(file=io.StringIO(), width=60, height=24, force_terminal=True, color_system=None)
    with Follower(
        console, client, Reservoir(fake_redis), topics=["topic"], addresses=["here"], quiet=quiet, outlets={outlet}
    ) as follower:
        follower.step()
        assert follower._live
        shown = render(follower._live.get_renderable(), console)
        assert shown[:2] == ["here", "2 runs; Ctrl-C stops everything that was started here"]
        assert any("results" in line for line in shown) is not quiet
        client.set_flow_run_state(first, Failed(), force=True)
        follower.step()
        shown = render(follower._live.get_renderable(), console)
        assert shown[1].startswith("1 run, 1 failed or crashed since the start; ")


def render(shown: RenderableType | None, console: Console) -> list[str]:
    assert shown is not None
    lines = console.render_lines(shown, pad=False)
    return ["".join(segment.text for segment in line).rstrip() for line in lines]


def test_start_first_retries_after_an_error_and_skips_a_deleted_deployment(
    client: SyncPrefectClient,
) -> None:
    deployment(client, "there")
    waiting = ["followed/gone", "followed/there"]
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        SyncPrefectClient(f"http://127.0.0.1:{refusing_port()}/api") as nobody,
        pytest.raises(HTTPError),
    ):
        runs.start_first(nobody, waiting)
    assert waiting == ["followed/gone", "followed/there"]
    since = datetime.now(UTC) - timedelta(seconds=1)
    runs.start_first(client, waiting)
    runs.start_first(client, waiting)
    assert waiting == []
    begun = client.read_flow_runs(limit=1, sort="START_TIME_DESC")  # type: ignore[arg-type]
    assert begun[0].created
    assert begun[0].created > since


def test_a_run_of_a_deleted_deployment_does_not_block_the_end_of_others(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's server fails at each final state of such a run (3.9.1), for as long as the lease of its slot runs."""
    monkeypatch.setattr(pool_ending, "_BEREFT", 0.5)
    limited = client.create_deployment(
        client.create_flow(followed), "limited", work_pool_name=POOL, concurrency_limit=1
    )
    orphan = client.create_flow_run_from_deployment(limited).id
    for state in (Pending(), Running()):
        client.set_flow_run_state(orphan, state)  # not forced, so that it takes a slot
    client.delete_deployment(limited)
    other, starting, running = (run(client, deployment(client, name)) for name in ("other", "starting", "running"))
    assert pool_ending.sweep(client, alive=(other, starting, running), orphans=False) == (0, 0)
    assert pool_ending.sweep(client, alive=(starting, running)) == (1, 1)
    assert client.read_flow_run(other).state_name == pool_ending.ABANDONED
    client.set_flow_run_state(starting, Pending(), force=True)
    killed: list[UUID] = []
    stopped: list[UUID] = []
    nothing: dict[str, Any] = {"processes": set, "stop": stopped.extend, "kill": killed.extend}
    assert pool_ending.cancel(client, None, **nothing, timeout=60) == 2
    assert killed == [starting]
    assert stopped == []
    assert client.read_flow_run(starting).state_name == "Cancelled"
    assert client.read_flow_run(running).state_name == "Cancelling"
    assert pool_ending.sweep(client, alive=(), state=Cancelled()) == (1, 1)
    assert client.read_flow_run(running).state_name == "Cancelled"
    client.delete_flow_run(orphan)


def test_cancel_signals_inlets_and_outlets_with_a_process_here(client: SyncPrefectClient) -> None:
    tagged = client.create_deployment(client.create_flow(followed), "tagged", work_pool_name=POOL, tags=["inlet"])
    here, elsewhere = run(client, tagged), run(client, tagged)
    other = run(client, deployment(client, "untagged"))
    has_process = {here, other}
    asked: list[UUID] = []

    def stop(ids: Collection[UUID]) -> None:
        asked.extend(ids)
        for id_ in ids:
            client.set_flow_run_state(id_, Cancelled(), force=True)

    def ours() -> set[UUID]:
        for id_ in (elsewhere, other):  # a worker ends cancelled runs
            if client.read_flow_run(id_).state_name == "Cancelling":
                client.set_flow_run_state(id_, Cancelled(message="by its worker"), force=True)
        return {here, elsewhere, other}

    assert (
        pool_ending.cancel(client, ours, processes=lambda: has_process, stop=stop, kill=lambda _: None, timeout=60) == 0
    )
    assert asked == [here]
    messages = [client.read_flow_run(id_).state.message for id_ in (here, elsewhere, other)]  # type: ignore[union-attr]
    assert messages == [None, "by its worker", "by its worker"]


def test_end_runs_ignores_a_deleted_run_and_names_one_that_does_not_end(client: SyncPrefectClient) -> None:
    of = deployment(client, "deleted")
    left = run(client, of)

    def delete_it() -> None:
        with get_client(sync_client=True) as another:
            wait_until(lambda: another.read_flow_run(left).state_name == "Cancelling", "it to be cancelled")
            another.delete_flow_run(left)

    helper = threading.Thread(target=contextvars.copy_context().run, args=(delete_it,))
    helper.start()
    assert ending.end_runs(client, of, "followed/deleted", 20, why="a test") == []
    helper.join()
    run(client, of)
    with pytest.raises(
        UnavailableError, match=r"followed/deleted: run .* has not ended after 1 s \(state Cancelling\)"
    ):
        ending.end_runs(client, of, "followed/deleted", 1, why="a test")


def test_end_runs_waits_for_pending_runs_and_leaves_scheduled_and_newer_ones(
    client: SyncPrefectClient,
) -> None:
    of = deployment(client, "starting")
    client.create_deployment_schedules(of, [(IntervalSchedule(interval=timedelta(hours=1)), True)])
    client.request("POST", "/deployments/{id}/schedule", path_params={"id": of}, json={"min_runs": 1, "max_runs": 1})
    later = client.create_flow_run_from_deployment(of).id
    starting, newer = run(client, of), run(client, of)
    client.set_flow_run_state(starting, Pending(), force=True)
    seen: list[str] = []

    def begin_and_end() -> None:
        with get_client(sync_client=True) as another:
            wait_until(lambda: another.read_flow_run(later).state_name == "Cancelled", "what waits to be cancelled")
            seen.append(another.read_flow_run(starting).state_name or "")
            another.set_flow_run_state(starting, Running())
            wait_until(lambda: another.read_flow_run(starting).state_name == "Cancelling", "it to be cancelled")
            another.set_flow_run_state(starting, Cancelled(), force=True)

    helper = threading.Thread(target=contextvars.copy_context().run, args=(begin_and_end,))
    helper.start()
    beside = client.read_flow_run(newer)
    ended = ending.end_runs(client, of, "followed/starting", 20, why="a test", older_than=beside)
    helper.join()
    assert seen == ["Pending"]
    assert {each.id for each in ended} == {starting, later}
    assert {each.state_name for each in ended} == {"Cancelled"}
    assert client.read_flow_run(newer).state_name == "Running"
    client.set_flow_run_state(newer, Cancelled(), force=True)
    assert ending.end_runs(client, of, "followed/starting", 20, why="a test") == []
    its = FlowRunFilter.model_validate({"deployment_id": {"any_": [of]}})
    assert [each.state_name for each in client.read_flow_runs(flow_run_filter=its) if each.auto_scheduled] == [
        "Scheduled"
    ]


def test_schedules_without_an_anchor_are_spread_over_their_interval_and_stay_paused(client: SyncPrefectClient) -> None:
    every = IntervalSchedule(interval=timedelta(seconds=600))
    of, names = client.create_flow(followed), [f"spread{n}" for n in range(8)]
    for name in names:
        schedule = DeploymentScheduleCreate(schedule=every, slug="s", active=False)
        client.create_deployment(of, name, work_pool_name=POOL, schedules=[schedule])
    unanchored, none = frozenset({"s"}), frozenset()
    blueprint = Blueprint(
        Path("prefect.yaml"),
        tuple(
            Deployment(
                name, "x.py:followed", "followed", none, unanchored, 600, unanchored if name != names[0] else none
            )
            for name in names
        ),
    )

    def seen() -> list[tuple[datetime, bool, datetime | None]]:
        there = [client.read_deployment_by_name(f"followed/{name}") for name in names]
        return [
            (each.schedules[0].schedule.anchor_date, each.schedules[0].active, each.schedules[0].updated)
            for each in there
        ]  # type: ignore[union-attr]

    before = seen()
    rollout.spread_schedules(client, blueprint)
    after = seen()
    assert after[0] == before[0]  # this schedule has an anchor in the file
    assert not any(active for _, active, _ in after)
    starts = sorted(int(anchor.timestamp()) % 600 for anchor, _, _ in after[1:])
    assert min((later - earlier) % 600 for earlier, later in itertools.pairwise([*starts, starts[0]])) > 600 / 7 / 3
    rollout.spread_schedules(client, blueprint)
    assert seen() == after


@pytest.mark.parametrize(("refusals", "status", "tries"), [(3, 503, 4), (99, 503, 8), (1, 500, 1)])
def test_a_request_is_repeated_while_the_server_is_busy_and_for_no_other_reason(
    monkeypatch: pytest.MonkeyPatch, refusals: int, status: int, tries: int
) -> None:
    monkeypatch.setattr(prefect_api, "_BUSY", 0)
    tried = []

    def act() -> str:
        tried.append(1)
        if len(tried) <= refusals:
            request = Request("POST", "http://prefect.example")
            raise HTTPStatusError("refused", request=request, response=Response(status, request=request))  # noqa: EM101
        return "done"

    if refusals < tries:
        assert prefect_api.when_not_busy(act) == "done"
    else:
        with pytest.raises(HTTPStatusError):
            prefect_api.when_not_busy(act)
    assert len(tried) == tries


def test_an_outlet_gets_as_many_runs_as_its_limit_admits(client: SyncPrefectClient) -> None:
    made = client.create_deployment(
        client.create_flow(followed), "outlet", work_pool_name=POOL, concurrency_limit=3, tags=["outlet"]
    )
    declared = Deployment("outlet", "file.py:followed", "followed", frozenset({"outlet"}), frozenset(), None)
    blueprint = Blueprint(Path("prefect.yaml"), (declared,))
    assert runs.to_start(client, blueprint) == ["followed/outlet"] * 3
    run(client, made)
    client.create_flow_run_from_deployment(made)
    assert runs.to_start(client, blueprint) == ["followed/outlet"]


def test_a_restart_replaces_one_replica_after_the_other(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = client.create_deployment(client.create_flow(followed), "outlet", work_pool_name=POOL, concurrency_limit=2)
    old = [run(client, made) for _ in range(2)]
    alive: list[int] = []

    def begun(client: SyncPrefectClient, new: UUID) -> Any:
        client.set_flow_run_state(new, Running(), force=True)
        alive.append(len(ending.unended_runs(client, made)))
        return client.read_flow_run(new)

    monkeypatch.setattr(restart, "_begun", begun)
    console = Console(file=io.StringIO(), width=200)
    threading.Thread(target=contextvars.copy_context().run, args=(end_cancelling, old), daemon=True).start()
    restart.restart(console, "followed/outlet", timeout=30)
    assert alive == [2, 2]
    assert {client.read_flow_run(each).state_name for each in old} == {"Cancelled"}


def end_cancelling(of: list[UUID]) -> None:
    """End each of these runs once it is being cancelled, as its process would."""
    left = set(of)

    def end_some() -> bool:
        for each in list(left):
            if client.read_flow_run(each).state_name != "Running":
                client.set_flow_run_state(each, Cancelled(), force=True)
                left.remove(each)
        return not left

    with get_client(sync_client=True) as client:
        wait_until(end_some, "all to be cancelled")
