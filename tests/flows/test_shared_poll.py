"""One request to Prefect's server for all inlet runs that share a Redis."""

import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Completed, Crashed, Failed, Running
from prefect.utilities.callables import parameter_schema

from flows.runtime import poll_turn, shared_poll
from flows.runtime.inlet_watch import why_to_end
from flows.runtime.poll_turn import PollTurn
from flows.runtime.shared_poll import PAUSED, Seen, SharedPoll, seen_of
from tests.support.ports import refusing_port


@flow(name="polled")
def polled(board: str = "all") -> None: ...


SCHEDULED: dict[str, Any] = {"active": True, "parameters": {}}
DEPLOYMENT: dict[str, Any] = {
    "updated": "now",
    "paused": False,
    "schedules": [SCHEDULED],
    "parameters": {"board": "all"},
    "entrypoint": "flows/a.py:a",
}


def a_run(*, scheduled: bool, **parameters: str) -> FlowRun:
    return FlowRun(flow_id=uuid4(), parameters={"board": "all"} | parameters, auto_scheduled=scheduled)


def seen(state: str = "RUNNING", **changes: Any) -> Seen:
    return seen_of("run", DEPLOYMENT | changes, {"run": state} if state != "OVER" else {}, at=0)


@pytest.mark.parametrize("scheduled", [True, False])
@pytest.mark.parametrize(
    ("now", "why"),
    [
        (seen(), None),
        (seen(parameters={"board": "all"}, updated="later"), None),
        (seen("CANCELLING"), "it was cancelled"),
        (seen("OVER"), "Prefect's server counts it as over"),
        (seen_of("run", None, {"run": "RUNNING"}, at=0), "its deployment was deleted"),
        (seen(paused=True), "its schedule was paused"),
        (seen(schedules=[SCHEDULED | {"active": False}]), "its schedule was paused"),
        (seen(schedules=[SCHEDULED | {"parameters": {"board": "sh"}}]), "its schedule was changed"),
    ],
)
def test_a_run_ends_when_nothing_wants_it_any_more(now: Seen, why: str | None, scheduled: bool) -> None:
    assert why_to_end(seen(), now, a_run(scheduled=scheduled)) == why


def test_run_started_by_hand_continues_without_an_active_schedule() -> None:
    by_hand = a_run(scheduled=False)
    assert why_to_end(None, seen(paused=True), by_hand) is None
    assert why_to_end(seen(paused=True), seen(paused=True), by_hand) is None
    assert why_to_end(seen(), seen(), a_run(scheduled=False, board="sh")) is None


def test_a_scheduled_run_ends_when_its_schedule_was_paused_before_it_began() -> None:
    assert why_to_end(None, seen(paused=True), a_run(scheduled=True)) == "its schedule was paused"


def test_one_of_several_schedules_is_paused_for_its_own_runs_only() -> None:
    schedules = [
        SCHEDULED | {"parameters": {"board": "sh"}},
        SCHEDULED | {"parameters": {"board": "sz"}, "active": False},
    ]
    now = seen(schedules=schedules)
    assert why_to_end(None, now, a_run(scheduled=True, board="sh")) is None
    assert why_to_end(None, now, a_run(scheduled=True, board="sz")) == "its schedule was changed"


def test_the_content_of_a_deployment_ignores_its_schedule_and_version() -> None:
    first = seen(version="abc").content
    assert seen(version="def", updated="later", schedules=[], last_polled="now").content == first
    assert seen(entrypoint="flows/b.py:b").content != first
    assert seen(job_variables={"env": {}}).content != first


def take_a_turn(poll: SharedPoll) -> None:
    poll.give_up_turn()
    with PollTurn(poll, logging.getLogger("test")) as turn:
        turn.step()


def test_one_participant_at_a_time_has_the_turn(client: redis.Redis) -> None:
    one, other = (SharedPoll(client, server="http://a", name=name, deployment="d") for name in ("one", "other"))
    elsewhere = SharedPoll(client, server="http://b", name="one", deployment="d")
    assert one.take_turn()
    assert not other.take_turn()
    assert not one.take_turn()
    assert elsewhere.take_turn()


def test_the_holder_of_the_lease_keeps_its_turn(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_poll, "POLL_SECONDS", 0.0)
    one, other = (SharedPoll(client, server="http://a", name=name, deployment="d") for name in ("one", "other"))
    assert [each.take_turn() for each in (one, other, one, other, one)] == [True, False, True, False, True]
    client.delete("no such key", *client.scan_iter("*:lease"))  # it has expired
    assert [each.take_turn() for each in (other, one, other)] == [True, False, True]
    assert (one.leads, other.leads) == (False, True)
    other.give_up_turn()
    assert one.take_turn()
    other.give_up_turn()  # the lease is no longer its own
    assert one.take_turn()


@given(st.lists(st.tuples(st.sampled_from(["turn", "turn", "give up", "expire"]), st.integers(0, 2)), max_size=30))
def test_a_turn_is_only_taken_from_a_lease_that_is_free(
    fresh_client: Callable[[], redis.Redis], steps: list[tuple[str, int]]
) -> None:
    client = fresh_client()
    polls = [SharedPoll(client, server="http://a", name=f"participant {n}", deployment="d") for n in range(3)]
    holder: int | None = None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shared_poll, "POLL_SECONDS", 0.0)  # a holder may always poll again
        for act, n in steps:
            if act == "expire":
                client.delete("no such key", *client.scan_iter("*:lease"))
                holder = None
            elif act == "give up":
                polls[n].give_up_turn()
                holder = None if holder == n else holder
            else:
                had_lease = polls[n].leads
                is_taken = polls[n].take_turn()
                # A former holder notices first that its lease is lost.
                assert is_taken == (holder == n or (holder is None and not had_lease))
                holder = n if is_taken else holder
            assert [poll.leads for poll in polls].count(True) >= (holder is not None)


def test_a_participant_without_an_answer_leaves_the_turn_to_others(client: redis.Redis) -> None:
    one, other = (SharedPoll(client, server="http://a", name=name, deployment="d") for name in ("one", "other"))
    one.look()
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{refusing_port()}/api"}):
        turn = PollTurn(one, logging.getLogger("test"))
        turn.step()
        assert other.take_turn()
        other.give_up_turn()
        turn.step()
        assert not one.leads  # it waits before it tries again


@pytest.mark.usefixtures("prefect")
class TestOnAServer:
    @pytest.fixture
    def api(self) -> Any:
        with get_client(sync_client=True) as api:
            yield api

    @pytest.fixture
    def deployment(self, api: SyncPrefectClient) -> Any:
        schedule = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=600), active=True)
        made = api.create_deployment(
            flow_id=api.create_flow(polled),
            name=f"of-{uuid4().hex[:8]}",
            entrypoint="a.py:polled",
            schedules=[schedule],
            parameter_openapi_schema=parameter_schema(polled).model_dump_for_openapi(),
        )
        yield made
        api.delete_deployment(made)

    def test_each_run_reads_the_answers_that_one_run_requested_for_all(
        self, api: SyncPrefectClient, deployment: UUID, client: redis.Redis
    ) -> None:
        runs = [api.create_flow_run_from_deployment(deployment, state=Running()) for _ in range(3)]
        polls = [SharedPoll(client, server="s", name=str(run.id), deployment=str(deployment)) for run in runs]
        gone = SharedPoll(client, server="s", name=str(uuid4()), deployment=str(uuid4()))
        assert [poll.look()[0] for poll in [*polls, gone]] == [None] * 4
        api.set_flow_run_state(runs[1].id, Cancelling(), force=True)
        api.set_flow_run_state(runs[2].id, Completed(), force=True)
        assert polls[0].refresh(api) == []  # it has a live run
        looked = [poll.look()[0] for poll in [*polls, gone]]
        assert [one and one.state for one in looked] == ["RUNNING", "CANCELLING", "OVER", "OVER"]
        assert [one and one.scheduled for one in looked] == [[{}], [{}], [{}], []]
        assert [one and bool(one.updated) for one in looked] == [True, True, True, False]

    def test_the_states_of_other_runs_are_read_with_one_request(
        self, api: SyncPrefectClient, deployment: UUID, client: redis.Redis
    ) -> None:
        runs = [api.create_flow_run_from_deployment(deployment, state=Running()).id for _ in range(3)]
        polls = [SharedPoll(client, server="s", name=str(run)) for run in [*runs, uuid4()]]
        assert [poll.look()[0] for poll in polls] == [None] * 4
        api.set_flow_run_state(runs[1], Cancelling(), force=True)
        api.delete_flow_run(runs[2])
        requests: list[str] = []
        request = api.request

        def counted(method: Any, path: str, **options: Any) -> Any:
            requests.append(path)
            return request(method, path, **options)  # type: ignore[arg-type]

        api.request = counted  # type: ignore[method-assign]
        assert polls[0].refresh(api) == []  # none is an inlet's, so none is started again
        looked = [poll.look()[0] for poll in polls]
        assert [one and one.state for one in looked] == ["RUNNING", "CANCELLING", "OVER", "OVER"]
        assert requests == ["/flow_runs/filter"]

    def test_run_that_has_left_is_polled_no_more(
        self, api: SyncPrefectClient, deployment: UUID, client: redis.Redis
    ) -> None:
        poll = SharedPoll(client, server="s", name=str(uuid4()), deployment=str(deployment))
        poll.look()
        poll.leave()
        assert [one["id"] for one in poll.refresh(api)] == [str(deployment)]  # an inlet without a run
        assert not list(client.scan_iter("*:seen"))
        assert all(client.pttl(key) > 0 for key in client.scan_iter())

    @pytest.mark.parametrize("ended_as", [PAUSED, "Completed"])
    def test_an_inlet_is_resumed_once_if_its_last_run_ended_for_a_pause(
        self, api: SyncPrefectClient, deployment: UUID, client: redis.Redis, ended_as: str
    ) -> None:
        poll = SharedPoll(client, server="s", name=str(uuid4()), deployment=str(deployment))
        poll.look()
        poll.leave()
        last = api.create_flow_run_from_deployment(deployment, state=Running())
        api.set_flow_run_state(last.id, Completed(name=ended_as), force=True)
        api.pause_deployment(deployment)
        take_a_turn(poll)
        assert self._others(api, deployment, last.id) == 0  # it is still paused
        api.resume_deployment(deployment)
        for _ in range(2):
            take_a_turn(poll)
        assert self._others(api, deployment, last.id) == (ended_as == PAUSED)

    @pytest.mark.parametrize("case", [(Crashed, 0), (Failed, 0), (Crashed, 60)])
    def test_crashed_inlet_is_restarted_with_its_parameters_without_an_automation(
        self,
        api: SyncPrefectClient,
        deployment: UUID,
        client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
        case: tuple[Callable[[], State], int],
    ) -> None:
        state, left_to_automations = case
        monkeypatch.setattr(poll_turn, "_LEFT_TO_AUTOMATIONS", left_to_automations)
        poll = SharedPoll(client, server="s", name=str(uuid4()), deployment=str(deployment))
        poll.look()
        poll.leave()
        last = api.create_flow_run_from_deployment(deployment, parameters={"board": "sh"}, state=Running())
        api.set_flow_run_state(last.id, state(), force=True)
        for _ in range(2):
            take_a_turn(poll)
        found = self._found(api, deployment, last.id)
        assert [again["parameters"] for again in found] == ([] if left_to_automations else [{"board": "sh"}])

    def _others(self, api: SyncPrefectClient, deployment: UUID, run: UUID) -> int:
        return len(self._found(api, deployment, run))

    @staticmethod
    def _found(api: SyncPrefectClient, deployment: UUID, run: UUID) -> list[dict[str, Any]]:
        body = {"deployments": {"id": {"any_": [str(deployment)]}}}
        found = api.request("POST", "/flow_runs/filter", json=body).json()
        return [one for one in found if one["id"] != str(run) and not one["auto_scheduled"]]


def test_a_silent_server_is_no_news(client: redis.Redis) -> None:
    poll = SharedPoll(client, server="s", name="run", deployment="d")
    poll.look()
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{refusing_port()}/api"}):
        take_a_turn(poll)
    assert poll.look()[0] is None
